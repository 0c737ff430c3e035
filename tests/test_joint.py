import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from test_data2vec import DECODER, EMA, LOSS, TARGET, blocks
from tiny_trunk import OPTIMIZATION, SHAPE
from torch import Tensor
from torch.utils.data import DataLoader

from winnow.data.batches import Batch
from winnow.data.modality import Modality
from winnow.data.text import Text
from winnow.data.turns import Turn, rotation
from winnow.data.vision import Vision
from winnow.ssl import model as models
from winnow.ssl.data2vec import Data2Vec
from winnow.ssl.joint import Joint, Member
from winnow.ssl.train import optimizers

# Lightning's own use of torch, and a teacher that is in evaluation mode for good.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*eval mode at the start of training"),
]
MODALITIES: dict[str, Modality] = {
    "images": Vision(size=16, patch=4, channels=1),
    "texts": Text(length=12, vocabulary=64),
    "colours": Vision(size=12, patch=4, channels=3),
}
TURNS = {"images": 2, "texts": 1, "colours": 1}


def member(modality: Modality, dropout: float = 0.0, **changes: Any) -> Member:
    settings: dict[str, Any] = {
        "shape": replace(SHAPE, dropout=dropout),
        "masking": blocks(modality),
        "masks": 2,
        "complementary": False,
        "target": TARGET,
        "predictor": DECODER,
        "loss": LOSS,
        "instances": None,
        "ema": EMA,
        "frontend_lr": 1.0,
    }
    return Member(**{**settings, **changes})


def members(dropout: float = 0.0) -> dict[str, Member]:
    """Three that differ in all that may differ."""
    shape = replace(SHAPE, dropout=dropout)
    changes: dict[str, dict[str, Any]] = {
        "images": {"ema": replace(EMA, shared=("frontend",)), "frontend_lr": 3.0},
        "texts": {"shape": replace(shape, attention_bias="alibi"), "loss": replace(LOSS, visible=1.0)},
        "colours": {"shape": replace(shape, extra_tokens=1), "masks": 3, "target": replace(TARGET, layers=1)},
    }
    return {name: member(MODALITIES[name], dropout, **changes[name]) for name in MODALITIES}


def joint(dropout: float = 0.0, **optimization: float) -> Joint:
    torch.manual_seed(0)
    method = Joint(MODALITIES, members(dropout), replace(OPTIMIZATION, **optimization), seed=0)  # type: ignore[arg-type]
    with torch.no_grad():  # teachers of their own: as they are after some updates
        for weight in dict.fromkeys(p for name in TURNS for p in method.member(name).teacher.parameters()):
            weight.add_(0.02 * torch.randn_like(weight))
    return method


def batch(name: str, number: int) -> Batch:
    generator = torch.Generator().manual_seed(number)
    if name == "texts":
        x = torch.randint(1, 64, (4, 12), generator=generator)
        x[0, 7:] = 0
    else:
        side, channels = (16, 1) if name == "images" else (12, 3)
        x = torch.rand(4, channels, side, side, generator=generator)
    return Batch(x, torch.zeros(4, dtype=torch.long), torch.arange(4) + 4 * number)


def turns(updates: int, accumulate: int = 1) -> list[Turn]:
    order = rotation(TURNS)
    return [
        Turn(order[update % len(order)], batch(order[update % len(order)], accumulate * update + part))
        for update in range(updates)
        for part in range(accumulate)
    ]


def fit(method: Joint, updates: int, *callbacks: Any, accumulate: int = 1) -> None:
    trainer = tiny.trainer(updates, *callbacks)
    trainer.accumulate_grad_batches = accumulate
    rows = turns(updates, accumulate)
    loaders = [DataLoader(part, batch_size=None) for part in (rows, rows[:4])]  # type: ignore[arg-type]
    trainer.fit(method, *loaders)


def alone(method: Joint, name: str) -> Data2Vec:
    """A method of its own with the settings and the weights of one modality."""
    single = Data2Vec(MODALITIES[name], **vars(members()[name]), optimization=OPTIMIZATION, seed=method.seed)
    single.load_state_dict(copy.deepcopy(method.member(name).state_dict()))
    return single


def weights(method: Joint) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in method.named_parameters()}


def assert_one_trunk(method: Joint) -> None:
    first, *others = (method.member(name) for name in TURNS)
    for network in ("student", "teacher"):
        shared = list(getattr(first, network).layers.parameters())
        for other in others:
            own = list(getattr(other, network).layers.parameters())
            assert len(own) == len(shared) and all(a is b for a, b in zip(own, shared, strict=True))
    apart = [p for m in (first, *others) for p in m.parameters()]
    layers = [p for network in (first.student, first.teacher) for p in network.layers.parameters()]
    assert len(set(apart)) == len(apart) - 2 * len(layers)  # nothing else is shared


def test_the_layers_are_the_same_objects_and_stay_so() -> None:
    method = joint()
    assert_one_trunk(method)
    before = weights(method)
    fit(method, 8)
    assert_one_trunk(method)
    after = weights(method)
    assert [name for name in before if torch.equal(before[name], after[name])] == []


@pytest.mark.parametrize("name", TURNS)
def test_a_turn_has_the_loss_and_gradients_of_this_modality_alone(name: str) -> None:
    method = joint()
    single, rows = alone(method, name), batch(name, 3)
    method.on_train_batch_start(Turn(name, rows), 0)
    total, number = method.costs(rows)
    total.backward()
    wanted, hidden = single.costs(rows)
    wanted.backward()
    assert torch.equal(total, wanted) and torch.equal(number, hidden)
    seen = {id(weight) for weight in method.member(name).parameters()}
    for (key, weight), other in zip(method.member(name).named_parameters(), single.parameters(), strict=True):
        if other.grad is None:
            assert weight.grad is None, key
        else:
            assert weight.grad is not None and torch.equal(weight.grad, other.grad), key
    assert all(weight.grad is None for weight in method.parameters() if id(weight) not in seen)


def test_weights_rest_with_their_moments_while_it_is_not_their_turn() -> None:
    method = joint()
    optimizer = optimizers(method, replace(OPTIMIZATION, weight_decay=0.5), 100, {})["optimizer"]

    def step(name: str, number: int) -> dict[str, list[Tensor]]:
        method.on_train_batch_start(Turn(name, batch(name, number)), 0)
        optimizer.zero_grad()
        method.costs(batch(name, number))[0].backward()
        optimizer.step()
        return {
            name: [weight.detach().clone(), *(v.clone() for v in optimizer.state.get(weight, {}).values())]
            for name, weight in method.named_parameters()
        }

    for number, name in enumerate(TURNS):
        state = step(name, number)
    later = step("images", 9)
    for key, values in state.items():
        resting = key.startswith(("members.texts", "members.colours")) and ".student.layers." not in key
        learns = resting or method.get_parameter(key).requires_grad
        same = all(torch.equal(a, b) for a, b in zip(values, later[key], strict=True))
        assert same is (resting or not learns), key


@pytest.mark.parametrize("accumulate", [1, 2])
def test_teachers_follow_by_the_formula_once_for_each_update(accumulate: int) -> None:
    """The shared layers too, whoever's turn it was; where a teacher is the student, it is that at once."""
    method = joint(dropout=0.1)
    expected = {
        name: weight.detach().clone() for name, weight in method.named_parameters() if ".teacher." in name
    }

    class Follow(tiny.lightning.Callback):
        updates = 0

        def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
            if trainer.global_step == self.updates:
                return
            self.updates = trainer.global_step
            decay = EMA.decay(self.updates, 8)
            live = dict(module.named_parameters())
            for name, kept in expected.items():
                student = live[name.replace(".teacher.", ".student.")].detach()
                is_shared = name.startswith("members.images.teacher.frontend")
                kept.copy_(student if is_shared else decay * kept + (1 - decay) * student)
                torch.testing.assert_close(live[name], kept, atol=1e-6, rtol=1e-5)

    follow = Follow()
    fit(method, 8, follow, accumulate=accumulate)
    assert follow.updates == 8


def test_an_update_is_the_same_however_its_batch_is_split() -> None:
    """Two accumulated halves, of which one hides fewer tokens, against the whole."""
    # With an `eps` above the rounding errors, of which Adam makes whole steps where the gradient is no more.
    whole, split = joint(eps=1e-4), joint(eps=1e-4)
    found = []
    for method, accumulate in ((whole, 1), (split, 2)):
        rows = []
        for update, name in enumerate(rotation(TURNS)):
            halves = [batch(name, 2 * update), batch(name, 2 * update + 1)]
            one = [Batch(*(torch.cat(columns) for columns in zip(*halves, strict=True)))]
            rows += [Turn(name, part) for part in (one if accumulate == 1 else halves)]
        trainer = tiny.trainer(4)
        trainer.accumulate_grad_batches = accumulate
        loaders = [DataLoader(part, batch_size=None) for part in (rows, rows[:1])]  # type: ignore[arg-type]
        trainer.fit(method, *loaders)
        losses = {name: loss for name, loss in trainer.callback_metrics.items() if "val" not in name}
        found.append((weights(method), losses))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_leaves_encoders_whose_layers_are_equal_and_whose_frontends_are_not(tmp_path: Path) -> None:
    method = joint()
    fit(method, 4)
    method.save(tmp_path)
    one, other, third = (models.load_encoder(tmp_path / name) for name in TURNS)
    for name, weight in one.layers.state_dict().items():
        assert torch.equal(weight, other.layers.state_dict()[name])
        assert torch.equal(weight, third.layers.state_dict()[name])
    for encoder, name in ((one, "images"), (other, "texts"), (third, "colours")):
        assert torch.equal(
            encoder.embed(batch(name, 0).x), method.member(name).student.eval().embed(batch(name, 0).x)
        )
    assert not torch.equal(one.norm.weight, third.norm.weight)  # type: ignore[union-attr]


def test_members_keep_their_own_modes_when_one_is_looked_at() -> None:
    method = joint(dropout=0.5)
    method.member("images").diagnose(batch("images", 0).x)
    for name in TURNS:
        assert all(module.training for module in method.member(name).student.modules())
        assert not any(module.training for module in method.member(name).teacher.modules())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"shape": replace(SHAPE, dropout=0.0, dim=32)},
            r"one shape\.dim; it is 16 for colours, 16 for images, 32 for t",
        ),
        (
            {"shape": replace(SHAPE, dropout=0.0, layers=3)},
            r"one shape\.layers; it is 2 for colours, 2 for images, 3 for t",
        ),
        ({"shape": SHAPE}, r"one shape\.dropout; it is 0\.0 for colours, 0\.0 for images, 0\.1 "),
        ({"ema": replace(EMA, end=0.99)}, r"one ema\.end; it is 0\.9 for colours, 0\.9 for images, 0\.99 "),
        (
            {"loss": replace(LOSS, scale="sum")},
            r"one loss\.scale; it is 'root' for colours, 'root' for images, 's",
        ),
    ],
    ids=["dim", "layers", "dropout", "ema", "loss"],
)
def test_refuses_settings_that_differ_where_weights_are_shared(changes: dict[str, Any], said: str) -> None:
    settings = members()
    settings["texts"] = member(MODALITIES["texts"], **changes)
    with pytest.raises(ValueError, match=said):
        Joint(MODALITIES, settings, OPTIMIZATION, seed=0)


def test_the_order_in_which_modalities_are_named_changes_nothing() -> None:
    found = []
    for names in (sorted(TURNS), sorted(TURNS, reverse=True)):
        torch.manual_seed(0)
        given = {name: MODALITIES[name] for name in names}
        settings = {name: members()[name] for name in names}
        found.append(Joint(given, settings, OPTIMIZATION, seed=0).state_dict())
    one, other = found
    assert list(one) == list(other)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_refuses_members_that_are_not_the_modalities() -> None:
    settings = members()
    del settings["texts"]
    with pytest.raises(
        ValueError, match=r"members are \['colours', 'images'\], and modalities \['colours', "
    ):
        Joint(MODALITIES, settings, OPTIMIZATION, seed=0)


def test_one_modality_alone_is_data2vec() -> None:
    torch.manual_seed(0)
    method = Joint({"images": MODALITIES["images"]}, {"images": members()["images"]}, OPTIMIZATION, seed=0)
    torch.manual_seed(0)
    single = Data2Vec(MODALITIES["images"], **vars(members()["images"]), optimization=OPTIMIZATION, seed=0)
    rows = [batch("images", number) for number in range(4)]
    named = [Turn("images", row) for row in rows]
    for trained, given in ((method, named), (single, rows)):
        loaders = [DataLoader(part, batch_size=None) for part in (given, given[:1])]  # type: ignore[arg-type]
        tiny.trainer(4).fit(trained, *loaders)
    for (name, weight), other in zip(method.named_parameters(), single.parameters(), strict=True):
        assert torch.equal(weight, other), name
