import copy
import math
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from winnow.data import store
from winnow.data.batches import Batch
from winnow.data.modality import Modality, Tokens
from winnow.data.vision import Vision
from winnow.ssl.data2vec import Data2Vec, Decoder, DecoderShape, Ema, instance_norm
from winnow.ssl.masking import Masking, block_mask
from winnow.ssl.model import Shape
from winnow.ssl.train import Optimization

# Lightning's own use of torch; the stages hide it from their users in the same way.
pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
EMA = Ema(start=0.5, end=0.9, ramp=0.5, share_frontend=False)


def make(modality: Modality | None = None, dropout: float = 0.0, **changes: Any) -> Data2Vec:
    modality = modality or Vision(size=16, patch=4, channels=1)
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "shape": Shape(dim=16, layers=3, heads=2, mlp_ratio=2.0, dropout=dropout, attention_dropout=dropout),
        "masking": Masking(ratio=0.5, block=(3,) * len(modality.grid), inverse=False),
        "masks": 3,
        "top_k_layers": 2,
        "final_norm": False,
        "visible_loss": 0.0,
        "decoder": DecoderShape(layers=2, dim=16, kernel=3, groups=2),
        "ema": EMA,
        "optimization": Optimization(lr=1e-3, warmup=0.1, hold=0.0, weight_decay=0.01, betas=(0.9, 0.98)),
        "seed": 0,
    }
    method = Data2Vec(modality, **{**settings, **changes})
    # A teacher of its own: as it is after some updates.
    with torch.no_grad():
        for weight in method.teacher.parameters():
            weight.add_(0.02 * torch.randn_like(weight))
    return method


def images(number: int = 4, seed: int = 1) -> Tensor:
    return torch.rand(number, 1, 16, 16, generator=torch.Generator().manual_seed(seed))


def some_samples(modality: Modality, ingest: Path, number: int = 4) -> Tensor:
    rows = [modality.load(raw) for _, raw in store.payloads(ingest)]
    return torch.stack(rows[:: len(rows) // number][:number])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


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


@pytest.mark.parametrize("top_k_layers", [1, 2, 3])
def test_a_target_averages_the_last_layers_normed_feed_forward_outputs(top_k_layers: int) -> None:
    method, x = make(top_k_layers=top_k_layers), images()
    taps = method.teacher(x).taps
    normed = [functional.instance_norm(tap.transpose(1, 2)).transpose(1, 2) for tap in taps]
    wanted = sum(normed[3 - top_k_layers :], torch.zeros(())) / top_k_layers
    torch.testing.assert_close(method.target(x)[0], wanted)


def test_the_final_norm_is_per_token() -> None:
    target, _ = make(final_norm=True).target(images())
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
    ema = Ema(start=0.5, end=0.9, ramp=0.5, share_frontend=share)
    method, x = make(ema=ema), images()
    before = method.target(x)[0]
    calls = count_calls(method.teacher.frontend)
    with torch.no_grad():
        for weight in method.student.frontend.parameters():
            weight.mul_(-1)
    after = method.target(x)[0]
    assert torch.equal(before, after) is not share
    assert len(calls) == (0 if share else 1)


@pytest.mark.parametrize("top_k_layers", [0, 4])
def test_refuses_layers_that_are_not_there(top_k_layers: int) -> None:
    with pytest.raises(ValueError, match=f"top_k_layers {top_k_layers} is not within 1 to 3"):
        make(top_k_layers=top_k_layers)


# --- the teacher follows ------------------------------------------------------------------------


def test_decay_ramps_linearly_and_stays() -> None:
    ema = Ema(start=0.9, end=0.99, ramp=0.5, share_frontend=False)
    assert ema.decay(0, 100) == 0.9
    assert ema.decay(25, 100) == pytest.approx(0.945)
    assert ema.decay(50, 100) == pytest.approx(0.99)
    assert ema.decay(51, 100) == ema.decay(100, 100) == pytest.approx(0.99)
    for step in range(49):
        rise = ema.decay(step + 1, 100) - ema.decay(step, 100)
        assert rise == pytest.approx(0.09 / 50)


def test_without_a_ramp_the_decay_is_at_its_end_from_the_first_update() -> None:
    assert Ema(start=0.9, end=0.99, ramp=0.0, share_frontend=False).decay(1, 100) == 0.99


def test_starts_as_the_student_and_learns_nothing_by_gradient() -> None:
    modality = Vision(size=16, patch=4, channels=1)
    method = make(modality)
    fresh = Data2Vec(
        modality,
        method.student.shape,
        method.masking,
        1,
        2,
        False,
        0.0,
        DecoderShape(layers=1, dim=16, kernel=3, groups=2),
        EMA,
        method.optimization,
        0,
    )
    for kept, live in zip(fresh.teacher.parameters(), fresh.student.parameters(), strict=True):
        assert torch.equal(kept, live) and kept is not live
    method.loss(images(), generator()).backward()
    assert not any(p.requires_grad or p.grad is not None for p in method.teacher.parameters())
    assert all(p.grad is not None for p in method.student.parameters())
    assert all(p.grad is not None for p in method.decoder.parameters())


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
    rows = [Batch(images(seed=i), torch.zeros(4, dtype=torch.long)) for i in range(6 * accumulate)]
    loaders = [DataLoader(part, batch_size=None) for part in (rows, rows[:1])]  # type: ignore[arg-type]
    trainer.fit(method, *loaders)
    assert follow.updates == 6


# --- prediction and loss ------------------------------------------------------------------------


def test_the_student_cannot_see_what_is_hidden(modality: Modality, ingested: Path) -> None:
    method = make(modality)
    tokens = method.student.tokens(some_samples(modality, ingested))
    mask = block_mask(tokens.valid, method.grid, method.masking, generator())
    scrambled = torch.where(mask[..., None], 50 * torch.randn_like(tokens.x), tokens.x)
    one = method.predict(tokens, mask, generator(5))
    other = method.predict(Tokens(scrambled, tokens.valid), mask, generator(5))
    assert torch.equal(one, other)
    changed = torch.where(mask[..., None], tokens.x, tokens.x + 1 + torch.rand_like(tokens.x))
    seen = method.predict(Tokens(changed, tokens.valid), mask, generator(5))
    assert not torch.equal(one, seen)


def test_padding_does_not_reach_the_student(modality: Modality, ingested: Path) -> None:
    method = make(modality)
    tokens = method.student.tokens(some_samples(modality, ingested))
    valid = tokens.valid.clone()
    valid[0, valid.shape[1] // 2 :] = False
    mask = block_mask(valid, method.grid, method.masking, generator())
    scrambled = torch.where(valid[..., None], tokens.x, 50 * torch.randn_like(tokens.x))
    one = method.predict(Tokens(tokens.x, valid), mask, generator(5))
    other = method.predict(Tokens(scrambled, valid), mask, generator(5))
    assert torch.equal(one, other)


def test_the_masks_of_a_sample_share_one_pass_of_the_teacher() -> None:
    for masks in (1, 5):
        method = make(masks=masks)
        calls = {part: count_calls(getattr(method, part).layers[0]) for part in ("teacher", "student")}
        method.loss(images(4), generator())
        assert [len(rows) for rows in calls["teacher"]] == [4]
        assert [len(rows) for rows in calls["student"]] == [4 * masks]


def count_calls(module: nn.Module) -> list[Tensor]:
    calls: list[Tensor] = []
    module.register_forward_hook(lambda module, given, out: calls.append(given[0]))
    return calls


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize(("final_norm", "visible_loss"), [(False, 0.0), (True, 0.0), (False, 0.5)])
def test_loss_and_gradients_equal_a_step_written_sample_by_sample(
    modality: Modality, ingested: Path, inverse: bool, final_norm: bool, visible_loss: float
) -> None:
    """From the formulas: one clone at a time, nothing padded, nothing batched."""
    block = (3,) * len(modality.grid)
    masking = Masking(ratio=0.6, block=block, inverse=inverse)
    method = make(modality, masking=masking, final_norm=final_norm, visible_loss=visible_loss, dropout=0.0)
    naive = copy.deepcopy(method)
    x = some_samples(modality, ingested)

    loss = method.loss(x, generator(9))
    loss.backward()

    # The draws of the whole batch, in the order that the method makes them.
    draws = generator(9)
    valid = naive.student.tokens(x).valid.repeat_interleave(3, 0)
    masks = block_mask(valid, modality.grid, masking, draws)
    noise = 0.01 * torch.randn(*masks.shape, 16, generator=draws)

    errors: list[Tensor] = []
    repeated: list[Tensor] = []
    for i in range(len(x)):
        own = naive.teacher.tokens(x[i : i + 1])
        here = own.valid[0].nonzero().flatten()
        with torch.no_grad():
            taps = naive.teacher.run(own.x[:, here], own.valid[:, here]).taps[-2:]
            target = torch.zeros(len(here), 16)
            for tap in taps:
                centred = tap[0] - tap[0].mean(0)
                target += centred / (tap[0].var(0, correction=0) + 1e-5).sqrt() / 2
            if final_norm:
                centred = target - target.mean(1, keepdim=True)
                target = centred / (target.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
        tokens = naive.student.tokens(x[i : i + 1])
        for clone in range(3 * i, 3 * i + 3):
            seen = [t for t in here.tolist() if not masks[clone, t]]
            encoded = naive.student.run(tokens.x[:, seen], tokens.valid[:, seen]).hidden[-1][0]
            canvas = []
            for t in range(masks.shape[1]):
                if t in seen:
                    canvas.append(encoded[seen.index(t)])
                else:
                    canvas.append(noise[clone, t] if masks[clone, t] else torch.zeros(16))
            prediction = naive.decoder(torch.stack(canvas)[None])[0]
            for row, t in enumerate(here.tolist()):
                error = ((prediction[t] - target[row]) ** 2).sum()
                (errors if masks[clone, t] else repeated).append(error)
    hidden, visible = (sum(part, torch.zeros(())) / len(part) for part in (errors, repeated))
    wanted = (hidden + visible_loss * visible) / math.sqrt(16)
    wanted.backward()

    torch.testing.assert_close(loss, wanted, atol=1e-5, rtol=1e-5)
    for (name, one), (_, other) in zip(method.named_parameters(), naive.named_parameters(), strict=True):
        if one.grad is not None:
            torch.testing.assert_close(
                one.grad, other.grad, atol=1e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
            )


def test_the_loss_does_not_grow_with_the_number_of_masks() -> None:
    x = images(16)
    losses = [float(make(masks=masks).loss(x, generator()).detach()) for masks in (1, 2, 8)]
    assert losses == pytest.approx([losses[-1]] * 3, rel=0.05)


def test_a_perfect_prediction_costs_nothing_and_an_offset_its_square() -> None:
    method, x = make(), images()
    target, _ = method.target(x)
    repeated = target.repeat_interleave(method.masks, 0)

    class Perfect(nn.Module):
        offset = 0.0

        def forward(self, x: Tensor) -> Tensor:
            return repeated + self.offset

    method.decoder = Perfect()  # type: ignore[assignment]
    assert float(method.loss(x, generator())) == 0
    method.decoder.offset = 0.5  # type: ignore[assignment]
    assert float(method.loss(x, generator())) == pytest.approx(0.25 * 16 / math.sqrt(16))


def test_the_same_generator_gives_the_same_loss() -> None:
    method, x = make(), images()
    assert torch.equal(method.loss(x, generator(3)), method.loss(x, generator(3)))
    assert not torch.equal(method.loss(x, generator(3)), method.loss(x, generator(4)))


@pytest.mark.parametrize("grid", [(12,), (4, 5), (2, 3, 4)])
def test_a_decoder_gives_the_trunks_width_on_any_grid(grid: tuple[int, ...]) -> None:
    decoder = Decoder(grid, 12, DecoderShape(layers=2, dim=8, kernel=3, groups=4))
    x = torch.randn(2, math.prod(grid), 12)
    assert decoder(x).shape == x.shape


def test_a_decoder_knows_which_tokens_are_neighbours() -> None:
    """One convolution of side 3: what changes at a place reaches the places around it alone."""
    decoder = Decoder((4, 5), 12, DecoderShape(layers=1, dim=12, kernel=3, groups=1))
    x = torch.randn(1, 20, 12)
    moved = x.clone()
    moved[0, 2 * 5 + 3] += 1
    reached = (decoder(x) != decoder(moved)).any(-1).reshape(4, 5).nonzero().tolist()
    assert reached == [[row, column] for row in (1, 2, 3) for column in (2, 3, 4)]
