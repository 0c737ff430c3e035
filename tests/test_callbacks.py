from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from lightning.pytorch.callbacks import Callback

from winnow.compress.callbacks import PatternLock, Pruning
from winnow.compress.sparsity import (
    Pattern,
    Schedule,
    measured_sparsity,
    prunable,
    require_zeros,
)

SCHEDULE = Schedule(begin=0.1, end=0.55, frequency=4, power=3.0, initial=0.0)
PATTERN = Pattern(sparsity=0.75, block=(1, 4), pooling="average")


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
