import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import naive
import pytest
import recipes
import tiny
import torch
from randomness import draws
from tiny_trunk import OPTIMIZATION, SHAPE
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from winnow.data import store
from winnow.data.batches import Batch
from winnow.data.modality import Modality, Tokens
from winnow.data.vision import Vision
from winnow.ssl.data2vec import Data2Vec, Loss
from winnow.ssl.ema import Ema
from winnow.ssl.instances import InstanceShape
from winnow.ssl.masking import Blocks
from winnow.ssl.predictors import Decoder, DecoderShape
from winnow.ssl.targets import Target, instance_norm

# Lightning's own use of torch; the stages hide it from their users in the same way.
pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
EMA = Ema(start=0.5, end=0.9, ramp=0.5, steps=None, shared=())
TARGET = Target(layers=2, tap="feed_forward", norm="instance", final_norm="none")
INSTANCES = InstanceShape(weight=0.7, temperature=0.2, layers=2, ratio=2.0, dim=8)
LOSS = Loss(beta=0.0, scale="root", visible=0.0, extra=0.0)
DECODER = DecoderShape(
    layers=2,
    dim=16,
    kernel=3,
    groups=2,
    residual=True,
    out_layers=1,
    out_ratio=1.0,
    noise_std=0.01,
    dropout=0.0,
)


def blocks(modality: Modality, **changes: Any) -> Blocks:
    around = (3,) * len(modality.grid)
    return replace(Blocks(ratio=0.5, adjust=0.1, block=around, inverse=False), **changes)


def make(
    modality: Modality | None = None, dropout: float = 0.0, aged: bool = True, **changes: Any
) -> Data2Vec:
    modality = modality or Vision(size=16, patch=4, channels=1)
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "shape": replace(SHAPE, layers=3, dropout=dropout, attention_dropout=dropout),
        "masking": blocks(modality),
        "masks": 3,
        "complementary": False,
        "target": TARGET,
        "predictor": DECODER,
        "loss": LOSS,
        "instances": None,
        "ema": EMA,
        "optimization": OPTIMIZATION,
        "frontend_lr": 1.0,
        "seed": 0,
    }
    method = Data2Vec(modality, **{**settings, **changes})
    # A teacher of its own: as it is after some updates.
    with torch.no_grad():
        for weight in method.teacher.parameters() if aged else ():
            weight.add_(0.02 * torch.randn_like(weight))
    return method


def images(number: int = 4, seed: int = 1) -> Tensor:
    return torch.rand(number, 1, 16, 16, generator=torch.Generator().manual_seed(seed))


def some_samples(modality: Modality, ingest: Path, number: int = 4) -> Tensor:
    rows = [modality.load(raw) for _, raw in store.payloads(ingest)]
    return torch.stack(rows[:: len(rows) // number][:number])


def mean_loss(method: Data2Vec, x: Tensor, seed: int = 0) -> Tensor:
    total, number = method.spend(x, draws(len(x), seed, method.masks), torch.arange(len(x)))
    return total / number


# --- the target ---------------------------------------------------------------------------------


def test_instance_norm_agrees_with_a_loop_over_valid_tokens() -> None:
    x = torch.randn(3, 6, 4)
    valid = torch.arange(6) < torch.tensor([6, 4, 2])[:, None]
    given = instance_norm(x, valid)
    for i in range(3):
        for channel in range(4):
            values = [x[i, t, channel].item() for t in range(6) if valid[i, t]]
            mean = sum(values) / len(values)
            variance = sum((v - mean) ** 2 for v in values) / len(values)
            for t in range(6):
                if valid[i, t]:
                    wanted = (x[i, t, channel].item() - mean) / math.sqrt(variance + 1e-5)
                    assert given[i, t, channel].item() == pytest.approx(wanted, abs=1e-5)


def test_instance_norm_is_torchs_where_nothing_is_padding() -> None:
    x = torch.randn(3, 6, 4)
    wanted = functional.instance_norm(x.transpose(1, 2)).transpose(1, 2)
    torch.testing.assert_close(instance_norm(x, torch.ones(3, 6, dtype=torch.bool)), wanted)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_a_target_averages_the_last_layers_normed_feed_forward_outputs(layers: int) -> None:
    method, x = make(target=replace(TARGET, layers=layers)), images()
    taps = method.teacher(x).taps
    normed = [functional.instance_norm(tap.transpose(1, 2)).transpose(1, 2) for tap in taps]
    wanted = sum(normed[3 - layers :], torch.zeros(())) / layers
    torch.testing.assert_close(method.target(x)[0], wanted)


def test_the_final_norm_is_per_token() -> None:
    target, _ = make(target=replace(TARGET, final_norm="layer")).target(images())
    torch.testing.assert_close(target.mean(-1), torch.zeros(4, 16), atol=1e-5, rtol=0)
    torch.testing.assert_close(target.var(-1, correction=0), torch.ones(4, 16), atol=1e-3, rtol=0)


def test_a_target_ignores_padding() -> None:
    method = make()
    tokens = torch.randn(2, 16, 16)
    valid = torch.arange(16) < torch.tensor([16, 7])[:, None]
    normed = [
        [instance_norm(tap, valid)[valid] for tap in method.teacher.run(x, valid).taps]
        for x in (tokens, torch.where(valid[..., None], tokens, 99.0))
    ]
    for one, other in zip(*normed, strict=True):
        torch.testing.assert_close(one, other)


def test_the_teacher_sees_without_dropout_while_the_student_trains() -> None:
    method, x = make(dropout=0.5), images()
    method.train()
    assert method.student.training and not method.teacher.training
    assert torch.equal(method.target(x)[0], method.target(x)[0])
    assert not torch.equal(method.student.embed(x), method.student.embed(x))
    assert torch.equal(method.target(x)[0], method.eval().target(x)[0])


def test_a_diagnosis_leaves_the_modes_as_training_needs_them() -> None:
    method = make(dropout=0.5)
    one, two = method.diagnose(images()), method.diagnose(images())
    assert one == two
    assert all(module.training for module in method.student.modules())
    assert not any(module.training for module in method.teacher.modules())


@pytest.mark.parametrize("share", [False, True])
def test_the_teacher_reads_through_its_own_frontend_or_the_students(share: bool) -> None:
    ema = replace(EMA, shared=("frontend",) if share else ())
    method, x = make(ema=ema), images()
    before = method.target(x)[0]
    calls = count_calls(method.teacher.frontend)
    with torch.no_grad():
        for weight in method.student.frontend.parameters():
            weight.mul_(-1)
    after = method.target(x)[0]
    assert torch.equal(before, after) is not share
    assert len(calls) == (0 if share else 1)


@pytest.mark.parametrize("layers", [0, 4])
def test_refuses_layers_that_are_not_there(layers: int) -> None:
    with pytest.raises(ValueError, match=f"target.layers {layers} is not within 1 to 3"):
        make(target=replace(TARGET, layers=layers))


# --- the teacher follows ------------------------------------------------------------------------


def test_starts_as_the_student_and_learns_nothing_by_gradient() -> None:
    modality = Vision(size=16, patch=4, channels=1)
    method = make(modality)
    fresh = make(modality, aged=False)
    for kept, live in zip(fresh.teacher.parameters(), fresh.student.parameters(), strict=True):
        assert torch.equal(kept, live) and kept is not live
    mean_loss(method, images()).backward()
    assert not any(p.requires_grad or p.grad is not None for p in method.teacher.parameters())
    assert all(p.grad is not None for p in method.student.parameters())
    assert all(p.grad is not None for p in method.predictor.parameters())


# The teacher is, for good.
@pytest.mark.filterwarnings("ignore:.*eval mode at the start of training")
@pytest.mark.parametrize("accumulate", [1, 2])
def test_moves_by_the_formula_once_for_each_update_of_the_student(accumulate: int) -> None:
    method = make(dropout=0.1)
    with torch.no_grad():
        expected = [weight.clone() for weight in method.teacher.parameters()]

    class Follow(tiny.lightning.Callback):
        """A second teacher, by the formula, that looks as early as a checkpoint would."""

        updates = 0

        def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
            if trainer.global_step == self.updates:
                return
            self.updates = trainer.global_step
            decay = EMA.decay(self.updates, 6)
            for kept, live, own in zip(
                expected, module.student.parameters(), module.teacher.parameters(), strict=True
            ):
                kept.mul_(decay).add_((1 - decay) * live.detach())
                torch.testing.assert_close(own, kept, atol=1e-6, rtol=1e-5)

    follow = Follow()
    trainer = tiny.trainer(6, follow)
    trainer.accumulate_grad_batches = accumulate
    rows = [
        Batch(images(seed=i), torch.zeros(4, dtype=torch.long), torch.arange(4) + 4 * i)
        for i in range(6 * accumulate)
    ]
    loaders = [DataLoader(part, batch_size=None) for part in (rows, rows[:1])]  # type: ignore[arg-type]
    trainer.fit(method, *loaders)
    assert follow.updates == 6


# --- prediction and loss ------------------------------------------------------------------------


def test_the_student_cannot_see_what_is_hidden(modality: Modality, ingested: Path) -> None:
    method = make(modality)
    tokens = method.student.frontend(some_samples(modality, ingested))
    mask = method.masking(tokens.valid, method.grid, draws(4))
    scrambled = torch.where(mask[..., None], 50 * torch.randn_like(tokens.x), tokens.x)
    one = method.predict(tokens, mask, draws(4, 5))[0]
    other = method.predict(Tokens(scrambled, tokens.valid), mask, draws(4, 5))[0]
    assert torch.equal(one, other)
    changed = torch.where(mask[..., None], tokens.x, tokens.x + 1 + torch.rand_like(tokens.x))
    seen = method.predict(Tokens(changed, tokens.valid), mask, draws(4, 5))[0]
    assert not torch.equal(one, seen)


def test_padding_does_not_reach_the_student(modality: Modality, ingested: Path) -> None:
    method = make(modality)
    tokens = method.student.frontend(some_samples(modality, ingested))
    valid = tokens.valid.clone()
    valid[0, valid.shape[1] // 2 :] = False
    mask = method.masking(valid, method.grid, draws(4))
    scrambled = torch.where(valid[..., None], tokens.x, 50 * torch.randn_like(tokens.x))
    one = method.predict(Tokens(tokens.x, valid), mask, draws(4, 5))[0]
    other = method.predict(Tokens(scrambled, valid), mask, draws(4, 5))[0]
    assert torch.equal(one, other)


def test_the_masks_of_a_sample_share_one_pass_of_the_teacher() -> None:
    for masks in (1, 5):
        method = make(masks=masks)
        calls = {part: count_calls(getattr(method, part).layers[0]) for part in ("teacher", "student")}
        mean_loss(method, images(4))
        assert [len(rows) for rows in calls["teacher"]] == [4]
        assert [len(rows) for rows in calls["student"]] == [4 * masks]


def count_calls(module: nn.Module) -> list[Tensor]:
    calls: list[Tensor] = []
    module.register_forward_hook(lambda module, given, out: calls.append(given[0]))
    return calls


@pytest.mark.parametrize(("inverse", "changes"), [(False, {"visible": 0.5}), (True, {})], ids=str)
def test_loss_and_gradients_equal_a_step_written_token_by_token(
    modality: Modality, ingested: Path, inverse: bool, changes: dict[str, Any]
) -> None:
    assert_as_naive(
        make(modality, masking=blocks(modality, ratio=0.6, inverse=inverse), loss=replace(LOSS, **changes)),
        some_samples(modality, ingested, 3),
    )


@pytest.mark.parametrize("complementary", [False, True])
def test_views_that_find_each_other_equal_a_step_written_token_by_token(
    modality: Modality, ingested: Path, complementary: bool
) -> None:
    method = make(
        modality,
        shape=replace(SHAPE, layers=3, positions="none"),
        masks=2,
        complementary=complementary,
        instances=INSTANCES,
    )
    assert_as_naive(method, some_samples(modality, ingested, 3))


def test_complementary_masks_share_a_sample_between_two_views() -> None:
    method = make(masks=4, complementary=True)
    valid = torch.ones(12, 16, dtype=torch.bool)
    valid[4:8, 9:] = False
    mask = method.hide(valid, draws(3, 0, 4))
    assert torch.equal(mask[::2] ^ mask[1::2], valid[::2]) and mask.any(1).all()
    assert not torch.equal(mask[0], mask[2])


def test_positions_would_give_complementary_views_away() -> None:
    with pytest.raises(ValueError, match=r"shape\.positions must be none"):
        make(masks=2, complementary=True, instances=INSTANCES)
    with pytest.raises(ValueError, match="masks must be even, not 3"):
        make(complementary=True)


def test_the_frontend_may_learn_faster_than_the_rest() -> None:
    method = make(frontend_lr=5.0)
    faster = {name for name, factor in method.scales().items() if factor == 5}
    assert faster == {f"student.frontend.{name}" for name, _ in method.student.frontend.named_parameters()}
    assert not make().scales()


@pytest.mark.parametrize("path", sorted(recipes.RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_recipe_agrees_with_its_formulas(path: Path) -> None:
    """The recipe as it stands, but for widths and depths that a test can wait for."""
    method, x = recipes.small(path)
    assert_as_naive(method, x)


def assert_as_naive(method: Data2Vec, x: Tensor) -> None:
    with torch.no_grad():  # away from where they start, at which a wrong mapping can hide
        for name, weight in method.named_parameters():
            if weight.ndim < 2 or "table" in name:
                weight.add_(0.1 * torch.randn_like(weight))
    method.student.eval()  # no dropout
    method.predictor.eval()
    loss = mean_loss(method, x, 9)
    loss.backward()
    found = {name: weight.grad for name, weight in method.named_parameters()}
    method.zero_grad(set_to_none=True)

    wanted = naive.step(method, x, draws(len(x), 9, method.masks))
    wanted.backward()
    torch.testing.assert_close(loss, wanted, atol=1e-5, rtol=1e-5)
    for name, weight in method.named_parameters():
        grad = found[name]
        if grad is None:
            assert weight.grad is None, name
        else:
            other = torch.zeros_like(grad) if weight.grad is None else weight.grad
            torch.testing.assert_close(grad, other, atol=2e-5, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}")


def test_the_loss_does_not_grow_with_the_number_of_masks() -> None:
    x = images(16)
    losses = [float(mean_loss(make(masks=masks), x).detach()) for masks in (1, 2, 8)]
    assert losses == pytest.approx([losses[-1]] * 3, rel=0.05)


def test_a_perfect_prediction_costs_nothing_and_an_offset_its_square() -> None:
    method, x = make(), images()
    target, _ = method.target(x)
    repeated = target.repeat_interleave(method.masks, 0)

    class Perfect(Decoder):
        offset = 0.0

        def forward(self, x: Tensor) -> Tensor:
            return repeated + self.offset

    method.predictor = Perfect(method.grid, 16, DECODER)
    assert float(mean_loss(method, x)) == 0
    method.predictor.offset = 0.5
    assert float(mean_loss(method, x)) == pytest.approx(0.25 * 16 / math.sqrt(16))


def test_the_same_draws_give_the_same_loss() -> None:
    method, x = make(), images()
    assert torch.equal(mean_loss(method, x, 3), mean_loss(method, x, 3))
    assert not torch.equal(mean_loss(method, x, 3), mean_loss(method, x, 4))


@pytest.mark.parametrize("grid", [(12,), (4, 5), (2, 3, 4)])
def test_a_decoder_gives_the_trunks_width_on_any_grid(grid: tuple[int, ...]) -> None:
    decoder = Decoder(grid, 12, replace(DECODER, dim=8, groups=4))
    x = torch.randn(2, math.prod(grid), 12)
    assert decoder(x).shape == x.shape


def test_a_decoder_knows_which_tokens_are_neighbours() -> None:
    """One convolution of side 3: what changes at a place reaches the places around it alone."""
    decoder = Decoder((4, 5), 12, replace(DECODER, layers=1, dim=12, groups=1))
    x = torch.randn(1, 20, 12)
    moved = x.clone()
    moved[0, 2 * 5 + 3] += 1
    reached = (decoder(x) != decoder(moved)).any(-1).reshape(4, 5).nonzero().tolist()
    assert reached == [[row, column] for row in (1, 2, 3) for column in (2, 3, 4)]
