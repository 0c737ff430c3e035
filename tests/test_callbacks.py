import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from lightning.pytorch.callbacks import Callback

from winnow.compress.allocation import overall
from winnow.compress.callbacks import PatternLock, Pruning
from winnow.compress.patterns import NM, Blocks
from winnow.compress.schedules import Constant, Polynomial
from winnow.compress.scores import BlockFisher, Magnitude, Movement, Score
from winnow.compress.sparsity import measured_sparsity, prunable, require_zeros, zero

SCHEDULE = Polynomial(begin=0.1, end=0.55, refresh=0.55, frequency=4, power=3.0, initial=0.0)
PATTERN = Blocks(block=(1, 4), pooling="average")


def pruning(**changed: Any) -> Pruning:
    settings: dict[str, Any] = {"sparsity": 0.75, "schedule": SCHEDULE, "pattern": PATTERN}
    return Pruning(**{**settings, **changed}, network="student")


def save_at(step: int, path: Path) -> Callback:
    class Save(Callback):
        def on_train_batch_end(self, trainer, module, *rest) -> None:  # type: ignore[no-untyped-def]
            if trainer.global_step == step:
                trainer.save_checkpoint(path)

    return Save()


class Watch(Callback):
    """Remembers how sparse the student was after every step."""

    def __init__(self) -> None:
        self.sparsity: list[float] = []

    def on_train_batch_end(self, trainer, module, *rest) -> None:  # type: ignore[no-untyped-def]
        self.sparsity.append(measured_sparsity(module.student))


def test_locked_zeros_stay_zero_under_momentum_and_weight_decay() -> None:
    model, watch = tiny.classifier(), Watch()
    keep = tiny.sparsify(model)
    before = model.encoder.layers[0].fc1.weight.clone()
    tiny.fit(tiny.taught(model, tiny.classifier(1)), 6, PatternLock("student"), watch)
    require_zeros(model, keep)
    assert set(watch.sparsity) == {0.75}
    assert not torch.equal(model.encoder.layers[0].fc1.weight, before)


def test_pruning_rises_along_the_schedule_and_ends_exactly() -> None:
    model, watch = tiny.classifier(), Watch()
    tiny.fit(tiny.taught(model, tiny.classifier(1)), 20, pruning(), watch)
    decay = SCHEDULE.over(20, 0.75)
    assert (decay.begin, decay.end) == (2, 11)  # the refreshes at 2, 6 and 10 do not reach 11
    assert watch.sparsity[0] == 0.0
    assert np.all(np.diff(watch.sparsity) >= 0)
    assert watch.sparsity[9] == pytest.approx(decay.sparsity(10), abs=1 / 64)
    assert set(watch.sparsity[10:]) == {0.75}


def test_n_of_m_is_reached_step_by_step_or_at_once_and_for_good() -> None:
    model, watch = tiny.classifier(), Watch()
    often = replace(SCHEDULE, frequency=1)
    stepwise = pruning(sparsity=0.5, pattern=NM(n=2, m=4), schedule=often)
    tiny.fit(tiny.taught(model, tiny.classifier(1)), 20, stepwise, watch)
    assert set(watch.sparsity) == {0.0, 0.25, 0.5} and watch.sparsity[-1] == 0.5
    once = pruning(sparsity=0.5, pattern=NM(n=2, m=4), schedule=Constant(begin=0.5, end=0.5, frequency=1))
    model, watch = tiny.classifier(), Watch()
    tiny.fit(tiny.taught(model, tiny.classifier(1)), 20, once, watch)
    assert watch.sparsity == [0.0] * 9 + [0.5] * 11
    require_zeros(model, once.keep)


@pytest.mark.parametrize("score", [Magnitude, Movement, BlockFisher])
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(tmp_path: Path, score: type[Score]) -> None:
    def method() -> tiny.Taught:
        return tiny.taught(tiny.classifier(), tiny.classifier(1))

    def started() -> Pruning:
        return pruning(score=score(), allocate=overall)

    whole = method()
    tiny.fit(whole, 16, started())
    # The callback that saves comes last, as Lightning's own ModelCheckpoint does.
    tiny.fit(method(), 16, started(), save_at(8, tmp_path / "8.ckpt"))
    resumed, rest = method(), started()
    batches = tiny.batches(16, start=8)
    tiny.trainer(16, rest).fit(resumed, batches, tiny.batches(1), ckpt_path=str(tmp_path / "8.ckpt"))
    require_zeros(resumed.student, rest.keep)
    for name, weight in whole.student.state_dict().items():
        assert torch.equal(weight, resumed.student.state_dict()[name]), name
    assert measured_sparsity(whole.student) == 0.75


def test_batches_whose_gradients_are_accumulated_are_one_step() -> None:
    def sparse(accumulated: int) -> list[float]:
        model, watch = tiny.classifier(), Watch()
        trainer = tiny.trainer(8, pruning(score=BlockFisher()), watch)
        trainer.accumulate_grad_batches = accumulated
        trainer.fit(tiny.taught(model, tiny.classifier(1)), tiny.batches(8 * accumulated), tiny.batches(1))
        return watch.sparsity[accumulated - 1 :: accumulated]

    assert sparse(3) == sparse(1)


def test_a_checkpoint_whose_zeros_have_moved_is_not_saved(tmp_path: Path) -> None:
    class Move(Callback):
        def on_train_batch_end(self, trainer, module, *rest) -> None:  # type: ignore[no-untyped-def]
            with torch.no_grad():
                next(iter(prunable(module.student).values())).add_(1e-30)

    model = tiny.classifier()
    tiny.sparsify(model)
    method, saved = tiny.taught(model, tiny.classifier(1)), tmp_path / "2.ckpt"
    with pytest.raises(RuntimeError, match=r"pruned weights of .* are not zero"):
        tiny.fit(method, 4, PatternLock("student"), Move(), save_at(2, saved))
    assert not saved.exists()


def test_a_copy_of_the_student_made_in_training_is_as_sparse() -> None:
    model, callback = tiny.classifier(), pruning()
    tiny.fit(tiny.taught(model, tiny.classifier(1)), 20, callback)
    average = copy.deepcopy(model)
    with torch.no_grad():
        for weight in average.parameters():
            weight.add_(0.1)
    zero(average, callback.keep)
    assert measured_sparsity(average) == 0.75
    require_zeros(average, callback.keep)


def test_a_pattern_that_does_not_fit_is_refused_before_the_first_step() -> None:
    watch = Watch()
    with pytest.raises(ValueError, match=r"rows of .* hold 16 weights"):
        tiny.fit(
            tiny.taught(tiny.classifier(), tiny.classifier(1)),
            4,
            pruning(sparsity=1 - 3 / 7, pattern=NM(n=3, m=7)),
            watch,
        )
    assert watch.sparsity == []
    with pytest.raises(ValueError, match="2:4 is a sparsity"):
        pruning(sparsity=0.75, pattern=NM(n=2, m=4))
