import copy
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from winnow.compress.sparsity import (
    Pattern,
    PatternLock,
    PolynomialDecay,
    Pruning,
    Schedule,
    lock,
    magnitude_keep,
    measured_sparsity,
    prunable,
    require_zeros,
)

DECAY = PolynomialDecay(begin=2000, end=5628, frequency=100, power=3.0, initial=0.5, final=0.9)
SCHEDULE = Schedule(begin=0.1, end=0.55, frequency=4, power=3.0, initial=0.0)
PATTERN = Pattern(sparsity=0.75, block=(1, 4), pooling="average")


def test_follows_tensorflows_polynomial_decay() -> None:
    # The formula of TFMOT's PolynomialDecay, written out, on its MNIST tutorial's numbers.
    for step in (0, 2000, 2500, 3814, 5600, 5628, 9000):
        progress = min(1.0, max(0.0, (step - 2000) / (5628 - 2000)))
        expected = (0.5 - 0.9) * (1 - progress) ** 3 + 0.9
        assert DECAY.sparsity(step) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("step", "sparsity"), [(0, 0.2), (100, 0.2), (200, 0.5), (300, 0.8), (999, 0.8)])
def test_a_power_of_one_is_a_straight_line(step: int, sparsity: float) -> None:
    decay = PolynomialDecay(begin=100, end=300, frequency=10, power=1.0, initial=0.2, final=0.8)
    assert decay.sparsity(step) == pytest.approx(sparsity)


def test_prunes_at_multiples_of_the_frequency_and_at_both_ends() -> None:
    decay = PolynomialDecay(begin=5, end=20, frequency=5, power=3.0, initial=0.0, final=0.5)
    assert [step for step in range(40) if decay.should_prune(step)] == [5, 10, 15, 20]


@pytest.mark.parametrize(
    "change", [{"begin": -1}, {"end": 1}, {"frequency": 0}, {"final": 1.0}, {"initial": 0.95}]
)
def test_refuses_an_impossible_schedule(change: dict[str, float]) -> None:
    settings = {"begin": 2, "end": 9, "frequency": 1, "power": 3.0, "initial": 0.1, "final": 0.9}
    with pytest.raises(ValueError, match="must"):
        PolynomialDecay(**{**settings, **change})


BLOCKS = st.sampled_from([(1, 1), (1, 4), (4, 1), (2, 3), (4, 4)])


@given(
    rows=st.integers(1, 5),
    columns=st.integers(1, 5),
    block=BLOCKS,
    sparsity=st.floats(0, 0.999),
    pooling=st.sampled_from(["average", "max"]),
    seed=st.integers(0, 99),
)
def test_keeps_exactly_the_asked_number_of_whole_blocks_of_largest_magnitude(
    rows: int, columns: int, block: tuple[int, int], sparsity: float, pooling: str, seed: int
) -> None:
    weight = torch.randn(rows * block[0], columns * block[1], generator=torch.Generator().manual_seed(seed))
    keep = magnitude_keep(weight, sparsity, block, pooling)  # type: ignore[arg-type]
    kept, pruned = [], []
    for row in range(rows):
        for column in range(columns):
            at = (
                slice(row * block[0], (row + 1) * block[0]),
                slice(column * block[1], (column + 1) * block[1]),
            )
            assert keep[at].all() or not keep[at].any()
            magnitude = weight[at].abs()
            score = float(magnitude.mean() if pooling == "average" else magnitude.max())
            (kept if keep[at].any() else pruned).append(score)
    assert len(kept) == max(round(rows * columns * (1 - sparsity)), 1)
    assert min(kept) >= max(pruned, default=0.0) - 1e-6


def test_the_first_of_equal_weights_are_kept() -> None:
    keep = magnitude_keep(torch.ones(2, 4), 0.625, (1, 1), "average")
    assert keep.tolist() == [[True, True, True, False], [False] * 4]


def test_fills_up_a_matrix_that_the_block_does_not_divide() -> None:
    weight = torch.tensor([[1.0, 1, 1, 1, 3], [0, 0, 0, 0, 0]])
    # The last block holds 3 and three zeros that are not there: 3/4 on average, 3 at most.
    assert magnitude_keep(weight, 0.75, (1, 4), "average")[0].tolist() == [True] * 4 + [False]
    assert magnitude_keep(weight, 0.75, (1, 4), "max")[0].tolist() == [False] * 4 + [True]


def test_prunes_the_six_matrices_of_every_layer_and_nothing_else() -> None:
    expected = {
        f"encoder.layers.{layer}.{name}.weight"
        for layer in range(2)
        for name in ("fc1", "fc2", *(f"attention.{p}" for p in ("query", "key", "value", "out")))
    }
    assert set(prunable(tiny.classifier())) == expected


def test_a_lock_finds_the_pattern_and_a_deep_copy_keeps_it() -> None:
    model = tiny.classifier()
    keep = sparsify(model)
    assert all(bool((lock(model)[name] == keep[name]).all()) for name in keep)
    require_zeros(copy.deepcopy(model), keep)
    assert measured_sparsity(model) == 0.75


def test_a_weight_that_came_back_is_not_saved() -> None:
    model = tiny.classifier()
    keep = sparsify(model)
    name, weight = next(iter(prunable(model).items()))
    with torch.no_grad():
        weight[~keep[name]] = 1e-30
    with pytest.raises(RuntimeError, match=name):
        require_zeros(model, keep)


def sparsify(model: torch.nn.Module) -> dict[str, Tensor]:
    keep = {n: magnitude_keep(w, 0.75, (1, 4), "average") for n, w in prunable(model).items()}
    with torch.no_grad():
        for name, weight in prunable(model).items():
            weight.mul_(keep[name])
    return keep


class Watch(Callback):
    """Remembers how sparse the student was after every step."""

    def __init__(self) -> None:
        self.sparsity: list[float] = []

    def on_train_batch_end(self, trainer, module, *rest) -> None:  # type: ignore[no-untyped-def]
        self.sparsity.append(measured_sparsity(module.student))


def test_locked_zeros_stay_zero_under_momentum_and_weight_decay() -> None:
    model, watch = tiny.classifier(), Watch()
    keep = sparsify(model)
    before = model.encoder.layers[0].fc1.weight.clone()
    tiny.fit(tiny.taught(model, tiny.classifier(1)), 6, PatternLock(), watch)
    require_zeros(model, keep)
    assert set(watch.sparsity) == {0.75}
    assert not torch.equal(model.encoder.layers[0].fc1.weight, before)


def test_pruning_rises_along_the_schedule_and_ends_exactly() -> None:
    model, watch = tiny.classifier(), Watch()
    tiny.fit(tiny.taught(model, tiny.classifier(1)), 20, Pruning(PATTERN, SCHEDULE), watch)
    decay = SCHEDULE.over(20, 0.75)
    assert (decay.begin, decay.end) == (2, 11)  # the refreshes at 2, 6 and 10 do not reach 11
    assert watch.sparsity[0] == 0.0
    assert np.all(np.diff(watch.sparsity) >= 0)
    assert watch.sparsity[9] == pytest.approx(decay.sparsity(10), abs=1 / 64)
    assert set(watch.sparsity[10:]) == {0.75}


def test_the_optimizer_forgets_what_is_pruned() -> None:
    model = tiny.classifier()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model(tiny.samples(8).x).square().sum().backward()
    optimizer.step()
    pruning = Pruning(PATTERN, SCHEDULE)
    pruning.refresh(model, 0.75, [optimizer])
    for name, weight in prunable(model).items():
        for moment in ("exp_avg", "exp_avg_sq"):
            held = optimizer.state[weight][moment]
            assert held[~pruning.keep[name]].count_nonzero() == 0
            assert held[pruning.keep[name]].count_nonzero() > 0


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(tmp_path: Path) -> None:
    def method() -> tiny.Taught:
        return tiny.taught(tiny.classifier(), tiny.classifier(1))

    whole = method()
    tiny.fit(whole, 16, Pruning(PATTERN, SCHEDULE))

    class Save(Callback):
        def on_train_batch_end(self, trainer, module, *rest) -> None:  # type: ignore[no-untyped-def]
            if trainer.global_step == 8:
                trainer.save_checkpoint(tmp_path / "8.ckpt")

    # The callback that saves comes last, as Lightning's own ModelCheckpoint does.
    tiny.fit(method(), 16, Pruning(PATTERN, SCHEDULE), Save())
    resumed, pruning = method(), Pruning(PATTERN, SCHEDULE)
    rest = tiny.batches(16, start=8)
    tiny.trainer(16, pruning).fit(resumed, rest, tiny.batches(1), ckpt_path=str(tmp_path / "8.ckpt"))
    require_zeros(resumed.student, pruning.keep)
    for name, weight in whole.student.state_dict().items():
        assert torch.equal(weight, resumed.student.state_dict()[name]), name
