"""How a teacher follows its student: a moving average, weight by weight."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn


@dataclass(frozen=True, kw_only=True)
class Ema:
    """How slowly the teacher follows the student.

    A teacher that keeps `decay` of itself remembers some 1 / (1 - decay) updates. What was chosen for a run
    of 400,000 leaves it at its random start in one of 1,000, so its memory goes with the length of the run:
    the last with the number of updates, the first with their root. That leads from the published values to
    those that learned the most from a few thousand updates, for images and for speech.

    Attributes:
        start: share of the teacher that an update keeps, at first [0–1].
        end: the same, from `ramp` on.
        ramp: fraction of the run over which it goes from start to end, linearly [0–1].
        steps: updates of the run that start and end were chosen for; null: they hold for any.
        shared: parts of the trunk in which the teacher is the student: of `frontend`, `positions`,
            `position_norm`, `convolutions`, `extra`, `norm`, `relative`.
    """

    start: float
    end: float
    ramp: float
    steps: int | None
    shared: tuple[str, ...]

    def decay(self, step: int, steps: int) -> float:
        """Give `ema_decay` after `step` of `steps` updates."""
        start, end = self.start, self.end
        if self.steps is not None and self.steps != steps:
            longer = steps / self.steps
            start, end = _remembering(start, longer**0.5), _remembering(end, longer)
        progress = min(step / max(self.ramp * steps, 1), 1.0)
        return start + (end - start) * progress


def _remembering(decay: float, times: float) -> float:
    """Give the decay whose memory is so many times as long, but one update at least."""
    return 1 - min((1 - decay) / times, 1.0)


@torch.no_grad()
def follow(weights: Iterable[tuple[Tensor, Tensor, bool]], decay: float) -> None:
    """Move weights of a teacher towards those of a student, all the way where they are to be equal."""
    pairs: dict[bool, tuple[list[Tensor], list[Tensor]]] = {True: ([], []), False: ([], [])}
    for kept, live, is_shared in weights:
        teachers, students = pairs[is_shared]
        teachers.append(kept)
        students.append(live)
    for is_shared, (teachers, students) in pairs.items():
        if teachers:
            get_ema_multi_avg_fn(0.0 if is_shared else decay)(teachers, students, None)
