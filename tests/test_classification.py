from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import tiny
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from timm.optim import param_groups_layer_decay
from tiny_trunk import SHAPE
from torch.nn import functional
from torch.utils.data import DataLoader

from winnow.data.batches import UNLABELLED, Batch, seed_of
from winnow.data.text import Text
from winnow.ssl import model as models
from winnow.ssl.classification import (
    Classification,
    Mixing,
    accuracy,
    label_loss,
    pooled,
    predict,
    solve_head,
)
from winnow.ssl.shape import Shape
from winnow.ssl.trunk import Encoder

# Lightning's own use of torch; the stages hide it from their users in the same way.
pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")


def method(root: Path, shape: Shape = SHAPE, **changed: Any) -> Classification:
    root.mkdir()
    models.save(tiny.classifier(shape=shape).encoder, root)
    return tiny.classification(root, **changed)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_the_mean_cross_entropy_of_the_labelled(smoothing: float) -> None:
    torch.manual_seed(0)
    logits, label = torch.randn(5, 3), torch.tensor([0, UNLABELLED, 2, UNLABELLED, 1])
    terms = []
    for row, wanted in zip(logits, label.tolist(), strict=True):
        if wanted != UNLABELLED:
            logs = row - row.exp().sum().log()
            terms.append(-(1 - smoothing) * logs[wanted] - smoothing * logs.mean())
    torch.testing.assert_close(label_loss(logits, label, smoothing), sum(terms) / torch.tensor(3.0))


def test_the_loss_is_torchs_where_all_have_labels() -> None:
    logits, label = torch.randn(5, 3), torch.tensor([0, 1, 2, 0, 1])
    wanted = functional.cross_entropy(logits, label, label_smoothing=0.2)
    torch.testing.assert_close(label_loss(logits, label, 0.2), wanted)


def test_a_batch_without_labels_costs_nothing_and_moves_nothing() -> None:
    logits = torch.randn(5, 3, requires_grad=True)
    loss = label_loss(logits, torch.full((5,), UNLABELLED), 0.1)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None and not logits.grad.any()


def test_accuracy_counts_the_labelled_alone() -> None:
    logits = torch.eye(3)[[0, 1, 2, 2]]
    assert accuracy(logits, torch.tensor([0, 1, 0, UNLABELLED])) == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="no sample has a label"):
        accuracy(logits, torch.full((4,), UNLABELLED))


def test_prediction_is_in_evaluation_mode_and_does_not_depend_on_the_batch_size() -> None:
    model, x = tiny.classifier().train(), tiny.samples(7).x
    wanted = predict(model, x, 7)
    assert torch.equal(wanted, predict(model, x, 7))
    torch.testing.assert_close(predict(model, x, 3), wanted)
    assert not wanted.requires_grad


def test_starts_from_the_encoder_in_training_mode_with_the_asked_dropout(tmp_path: Path) -> None:
    training = method(tmp_path / "a", dropout=0.4)
    assert all(module.training for module in training.modules())
    trunk = training.classifier.encoder
    assert {layer.dropout.p for layer in trunk.layers} == {0.4}
    start = tiny.classifier().encoder.state_dict()
    assert all(torch.equal(start[name], value) for name, value in trunk.state_dict().items())


def test_dropout_is_active_while_training_and_not_while_validating(tmp_path: Path) -> None:
    """The modes are seen from inside the layers, at every forward pass of a run."""
    training = method(tmp_path / "a", dropout=0.4)
    seen: list[tuple[bool, bool]] = []
    for layer in training.classifier.encoder.layers:
        layer.register_forward_hook(
            lambda module, given, out: seen.append((torch.is_grad_enabled(), module.training))
        )
    rows = [tiny.samples(8, seed=i) for i in range(6)]
    loaders = [DataLoader(part, batch_size=None) for part in (rows, rows[:1])]  # type: ignore[arg-type]
    trainer = tiny.trainer(6)
    trainer.val_check_interval = 2
    trainer.fit(training, *loaders)
    assert set(seen) == {(True, True), (False, False)}
    # The first batch after a validation trains in training mode again.
    assert seen.index((False, False)) < len(seen) - 1 - seen[::-1].index((True, True))


def test_learns_what_can_be_learned(tmp_path: Path) -> None:
    training = method(tmp_path / "a", dropout=0.1, label_smoothing=0.1)
    rows = [tiny.samples(32, seed=i) for i in range(80)]
    held_out = tiny.samples(200, seed=1000)
    before = accuracy(predict(training.classifier, held_out.x, 64), held_out.label)
    training.train()
    loaders = [DataLoader(part, batch_size=None) for part in (rows, rows[:1])]  # type: ignore[arg-type]
    tiny.trainer(80).fit(training, *loaders)
    after = accuracy(predict(training.classifier, held_out.x, 64), held_out.label)
    assert before < 0.7 < 0.95 < after


@pytest.mark.parametrize(("word", "split"), [("validate", "val"), ("test", "test")])
def test_accuracy_and_loss_are_of_all_labelled_samples_however_they_are_batched(
    tmp_path: Path, word: str, split: str
) -> None:
    training = method(tmp_path / "a")
    whole = tiny.samples(20, seed=3)
    parts = [Batch(*(part[i:j] for part in whole)) for i, j in ((0, 13), (13, 20))]
    parts += [part._replace(label=torch.full_like(part.label, UNLABELLED)) for part in parts]
    loader = DataLoader(parts, batch_size=None)  # type: ignore[arg-type]
    (seen,) = getattr(tiny.trainer(1), word)(training, loader, verbose=False)
    logits = predict(training.classifier, whole.x, 20)
    wanted = functional.cross_entropy(logits, whole.label).item()
    assert seen == {
        f"{split}/accuracy": pytest.approx(accuracy(logits, whole.label)),
        f"{split}/loss": pytest.approx(wanted, rel=1e-5),
    }


def test_a_solved_head_is_the_logistic_regression_of_the_labelled() -> None:
    torch.manual_seed(0)
    label = torch.arange(90) % 3
    x = torch.randn(90, 5) * torch.tensor([1.0, 5.0, 0.1, 1.0, 1.0]) + torch.eye(3, 5)[label] + 7
    blank = torch.where(torch.arange(90) < 15, UNLABELLED, label)
    head = torch.nn.Linear(5, 3)
    solve_head(head, x, blank, 2.0)
    scale = StandardScaler().fit(x)
    regression = LogisticRegression(C=2.0, tol=1e-8, max_iter=1000)
    regression.fit(scale.transform(x)[15:], label[15:])
    wanted = torch.tensor(regression.predict_proba(scale.transform(x)), dtype=torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(head(x).softmax(1), wanted, atol=0.01, rtol=0)


def test_what_a_head_reads_is_what_the_classifier_gives_it() -> None:
    model, x = tiny.classifier().train(), tiny.samples(7).x
    logits = predict(model, x, 7)
    with torch.no_grad():
        torch.testing.assert_close(model.head(pooled(model.encoder.train(), x, 3)), logits)


# --- layer-wise learning rates ------------------------------------------------------------------


def rates(training: Classification, steps: int = 10) -> dict[str, float]:
    """Peak learning rate of each parameter, as a run's optimizer has it."""
    trainer = tiny.trainer(steps)
    trainer.strategy.connect(training)
    training.trainer = trainer
    optimizer = training.configure_optimizers()["optimizer"]
    of = {id(p): group["initial_lr"] for group in optimizer.param_groups for p in group["params"]}
    return {name: of[id(p)] for name, p in training.classifier.named_parameters()}


PRE = replace(SHAPE, layers=3, norm="pre", output_norm="pooled", positions="learned", extra_tokens=1)


@pytest.mark.parametrize("tables", ["shared_table", "layer_table"])
def test_each_layer_learns_slower_than_the_one_behind_it(tmp_path: Path, tables: Any) -> None:
    shape = replace(PRE, attention_bias=tables)
    seen = rates(method(tmp_path / "a", shape, layer_decay=0.5))
    lr = tiny.OPTIMIZATION.lr
    for name, rate in seen.items():
        if name.startswith(("head", "encoder.output_norm")):
            wanted = lr
        elif "layers.2." in name or "relative.2." in name:
            wanted = lr / 2
        elif "layers.1." in name or "relative.1." in name:
            wanted = lr / 4
        elif "layers.0." in name or ("relative.0." in name and tables == "layer_table"):
            wanted = lr / 8
        elif "relative" in name:  # a table for all layers is as deep as the head
            wanted = lr
        else:
            assert name.split(".")[1] in {"frontend", "positions", "extra"}
            wanted = lr / 16
        assert rate == pytest.approx(wanted), name
    assert len(set(seen.values())) == 5


def test_rates_and_weight_decays_are_timms(tmp_path: Path) -> None:
    training = method(tmp_path / "a", PRE, layer_decay=0.65)
    seen = rates(training)
    optimizer = training.configure_optimizers()["optimizer"]
    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    model = training.classifier
    model.group_matcher = lambda coarse: {  # type: ignore[assignment]
        "stem": r"^encoder\.(?:frontend|positions|extra)",
        "blocks": r"^encoder\.layers\.(\d+)",  # all others come last
    }
    free = ("encoder.positions", "encoder.extra")
    groups = param_groups_layer_decay(model, tiny.OPTIMIZATION.weight_decay, free, layer_decay=0.65)
    scale = {id(p): g["lr_scale"] for g in groups for p in g["params"]}
    timms = {id(p): g["weight_decay"] for g in groups for p in g["params"]}
    for name, parameter in model.named_parameters():
        assert seen[name] == pytest.approx(tiny.OPTIMIZATION.lr * scale[id(parameter)]), name
        assert decay[id(parameter)] == timms[id(parameter)], name


def test_without_layer_decay_all_learn_alike(tmp_path: Path) -> None:
    assert set(rates(method(tmp_path / "a", PRE)).values()) == {tiny.OPTIMIZATION.lr}


# --- the head alone at first --------------------------------------------------------------------


class Watch(lightning.Callback):
    """Keeps the weights after every step."""

    def __init__(self) -> None:
        self.after: list[dict[str, torch.Tensor]] = []

    def on_train_batch_end(self, trainer: lightning.Trainer, module: Any, *rest: Any) -> None:
        self.after.append({name: p.detach().clone() for name, p in module.classifier.named_parameters()})


def fitted(training: Classification, steps: int) -> list[dict[str, torch.Tensor]]:
    start = {name: p.detach().clone() for name, p in training.classifier.named_parameters()}
    watch = Watch()
    tiny.trainer(steps, watch).fit(training, tiny.batches(steps), tiny.batches(1))
    return [start, *watch.after]


def test_the_trunk_moves_when_the_fraction_is_over_and_no_step_before(tmp_path: Path) -> None:
    weights = fitted(method(tmp_path / "a", dropout=0.1, freeze=0.5), 8)
    for step, (before, after) in enumerate(pairwise(weights)):
        moved = {name for name in before if not torch.equal(before[name], after[name])}
        frozen = {name for name in before if name.startswith("encoder.")}
        assert moved == set(before) - (frozen if step < 4 else set()), step


def test_a_trunk_may_stay_frozen_to_the_end_or_never_be(tmp_path: Path) -> None:
    for freeze in (0.0, 1.0):
        first, *_, last = fitted(method(tmp_path / str(freeze), freeze=freeze), 4)
        moved = {name.split(".")[0] for name in first if not torch.equal(first[name], last[name])}
        assert moved == ({"head"} if freeze else {"head", "encoder"})


# --- mixed images -------------------------------------------------------------------------------

MIXUP = Mixing(mixup_alpha=0.8, cutmix_alpha=0.0, prob=1.0, switch_prob=0.5)
CUTMIX = Mixing(mixup_alpha=0.0, cutmix_alpha=1.0, prob=1.0, switch_prob=0.5)


def test_images_and_labels_are_summed_with_the_same_weights(tmp_path: Path) -> None:
    batch = tiny.samples(6)
    x, target = method(tmp_path / "a", mixup=MIXUP, label_smoothing=0.3).mix(batch)
    random = np.random.RandomState(seed_of(0, "mixup", 0))  # of the seed, and the place of the first image
    random.rand()
    weight = random.beta(0.8, 0.8)
    for row, other in enumerate(reversed(range(6))):
        torch.testing.assert_close(x[row], weight * batch.x[row] + (1 - weight) * batch.x[other])
        wanted = torch.full((3,), 0.1)
        wanted[batch.label[row]] += 0.7 * weight
        wanted[batch.label[other]] += 0.7 * (1 - weight)
        torch.testing.assert_close(target[row], wanted)


def test_a_rectangle_comes_from_another_image_and_its_label_counts_by_the_area(tmp_path: Path) -> None:
    batch = tiny.samples(6)
    x, target = method(tmp_path / "a", mixup=CUTMIX).mix(batch)
    for row, other in enumerate(reversed(range(6))):
        own, foreign = x[row] == batch.x[row], x[row] == batch.x[other]
        assert (own | foreign).all()
        wanted = torch.zeros(3)
        wanted[batch.label[row]] += own.float().mean()
        wanted[batch.label[other]] += 1 - own.float().mean()
        torch.testing.assert_close(target[row], wanted)
    assert 0 < (x == batch.x).float().mean() < 1


def test_the_loss_is_the_cross_entropy_of_the_mixed_labels(tmp_path: Path) -> None:
    training, batch = method(tmp_path / "a", mixup=MIXUP, label_smoothing=0.1), tiny.samples(6)
    x, target = training.mix(batch)
    loss: list[float] = []

    class Keep(lightning.Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, *rest: Any) -> None:
            loss.append(float(outputs["loss"]))

    with torch.no_grad():
        logits = training.classifier(x)
    wanted = -(target * (logits - logits.exp().sum(1, keepdim=True).log())).sum(1).mean()
    loader = DataLoader([batch], batch_size=None)  # type: ignore[arg-type]
    tiny.trainer(1, Keep()).fit(training, loader, tiny.batches(1))
    assert loss == [pytest.approx(wanted.item(), rel=1e-5)]


def test_mixing_repeats_with_the_place_in_the_run_and_leaves_the_batch_as_it_is(tmp_path: Path) -> None:
    training, batch = method(tmp_path / "a", mixup=replace(MIXUP, cutmix_alpha=1.0)), tiny.samples(6)
    before = batch.x.clone()
    first = training.mix(batch)
    np.random.seed(99)
    second = training.mix(batch)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    elsewhere, _ = training.mix(batch._replace(place=batch.place + 6))
    assert not torch.equal(elsewhere, first[0])
    assert torch.equal(batch.x, before)


def test_mixing_refuses_what_it_cannot_mix(tmp_path: Path) -> None:
    training = method(tmp_path / "a", mixup=MIXUP)
    with pytest.raises(ValueError, match="batch_size must be even, not 5"):
        training.mix(tiny.samples(5))
    batch = tiny.samples(6)
    with pytest.raises(ValueError, match=r"set data\.labelled"):
        training.mix(batch._replace(label=batch.label.index_fill(0, torch.tensor([2]), UNLABELLED)))
    text = Text(length=24, vocabulary=512)
    (tmp_path / "text").mkdir()
    models.save(Encoder(text, SHAPE), tmp_path / "text")
    with pytest.raises(ValueError, match=r"a grid of \(24,\) is none"):
        tiny.classification(tmp_path / "text", text, mixup=MIXUP)
    with pytest.raises(ValueError, match="needs a mixup_alpha or a cutmix_alpha above 0"):
        replace(MIXUP, mixup_alpha=0.0)


def test_learns_from_mixed_images(tmp_path: Path) -> None:
    both = replace(CUTMIX, mixup_alpha=0.8)
    training = method(tmp_path / "a", mixup=both, layer_decay=0.8, freeze=0.1, label_smoothing=0.1)
    held_out = tiny.samples(200, seed=1000)
    tiny.trainer(80).fit(training, tiny.batches(80), tiny.batches(1))
    assert accuracy(predict(training.classifier, held_out.x, 64), held_out.label) > 0.85  # a third by chance
