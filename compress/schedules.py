"""When weights are pruned, and how many: sparsity over optimizer steps.

Semantics are those of TensorFlow's pruning API: steps count from 1, so that a schedule that begins at
0 makes its first mask at step `frequency`; both ends are included. What that API leaves to luck is sure
here: the final sparsity is reached even if `end` is no multiple of `frequency`.
"""

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class PolynomialDecay:
    """Sparsity that rises from `initial` to `final` between two steps.

    Attributes:
        begin: first step at which weights are pruned; what comes before is warm-up.
        end: step from which the sparsity is `final`.
        frequency: steps between two refreshes of the masks.
        power: of the polynomial; 3 prunes most of it early, while the model can still recover.
        initial: sparsity at `begin` [0–1).
        final: sparsity from `end` on [0–1).
        refresh: last step at which masks are chosen anew, at the final sparsity after `end`; what
            comes behind is cool-down. None is `end`.

    Raises:
        ValueError: if a value is outside of its range.

    Paper: To prune, or not to prune (Zhu and Gupta 2017, arXiv 1710.01878), section 3; a window of
    refreshes of its own, Prune Once for All (Zafrir et al. 2021, arXiv 2111.05754), section 4.
    """

    begin: int
    end: int
    frequency: int
    power: float
    initial: float
    final: float
    refresh: int | None = None

    def __post_init__(self) -> None:
        _require_window(self.begin, self.end, self.last, self.frequency)
        if not 0 <= self.initial <= self.final < 1:
            raise ValueError(f"0 ≤ initial ≤ final < 1 must hold, not {self.initial}, {self.final}")
        if self.power <= 0:
            raise ValueError(f"power must be above 0, not {self.power}")

    @property
    def last(self) -> int:
        """Give the last step at which masks may be refreshed."""
        return self.end if self.refresh is None else self.refresh

    def should_prune(self, step: int) -> bool:
        """Say whether masks are refreshed at a step; both ends count, and `end` always does."""
        return step == self.end or _on_beat(step, self.begin, self.last, self.frequency)

    def sparsity(self, step: int) -> float:
        """Give the sparsity at a step, as a fraction of zeros [0–1)."""
        progress = min(max((step - self.begin) / max(self.end - self.begin, 1), 0.0), 1.0)
        return self.final + (self.initial - self.final) * (1 - progress) ** self.power


@dataclass(frozen=True, kw_only=True)
class ConstantSparsity:
    """The same sparsity from the first mask on.

    Attributes:
        begin: first step at which weights are pruned.
        end: last such step; None goes on for ever.
        frequency: steps between two refreshes of the masks.
        final: sparsity [0–1).

    Raises:
        ValueError: if a value is outside of its range.
    """

    begin: int
    end: int | None
    frequency: int
    final: float

    def __post_init__(self) -> None:
        end = self.begin if self.end is None else self.end
        _require_window(self.begin, end, end, self.frequency)
        if not 0 <= self.final < 1:
            raise ValueError(f"0 ≤ final < 1 must hold, not {self.final}")

    @property
    def last(self) -> int | float:
        """Give the last step at which masks may be refreshed."""
        return math.inf if self.end is None else self.end

    def should_prune(self, step: int) -> bool:
        """Say whether masks are refreshed at a step; both ends count."""
        return _on_beat(step, self.begin, self.last, self.frequency)

    def sparsity(self, step: int) -> float:
        """Give the sparsity that masks made at a step have [0–1)."""
        return self.final


Schedule = PolynomialDecay | ConstantSparsity


@dataclass(frozen=True, kw_only=True)
class Polynomial:
    """A `PolynomialDecay` for a run of any length.

    Attributes:
        kind: tells it from a `Constant`.
        begin: fraction of the run before the first weight is pruned: warm-up [0–1].
        end: fraction of the run after which the sparsity is the final one [0–1].
        refresh: fraction of the run after which masks stay [0–1]; what follows is recovery.
        frequency: steps between two refreshes of the masks.
        power: of the polynomial.
        initial: sparsity at `begin` [0–1).
    """

    kind: Literal["polynomial"] = "polynomial"
    begin: float
    end: float
    refresh: float
    frequency: int
    power: float
    initial: float

    def over(self, steps: int, final: float) -> PolynomialDecay:
        """Lay the schedule over a run of `steps` optimizer steps that ends at sparsity `final`."""
        return PolynomialDecay(
            begin=round(self.begin * steps),
            end=round(self.end * steps),
            frequency=self.frequency,
            power=self.power,
            initial=self.initial,
            final=final,
            refresh=round(self.refresh * steps),
        )


@dataclass(frozen=True, kw_only=True)
class Constant:
    """A `ConstantSparsity` for a run of any length; where `end` is `begin`, one mask that stays.

    Attributes:
        kind: tells it from a `Polynomial`.
        begin: fraction of the run before the weights are pruned [0–1].
        end: fraction of the run after which masks stay [0–1].
        frequency: steps between two refreshes of the masks.
    """

    kind: Literal["constant"] = "constant"
    begin: float
    end: float
    frequency: int

    def over(self, steps: int, final: float) -> ConstantSparsity:
        """Lay the schedule over a run of `steps` optimizer steps at sparsity `final`."""
        begin = max(round(self.begin * steps), 1)  # steps count from 1
        end = max(round(self.end * steps), begin)
        return ConstantSparsity(begin=begin, end=end, frequency=self.frequency, final=final)


Span = Polynomial | Constant


def _require_window(begin: int, end: int, last: int, frequency: int) -> None:
    if not 0 <= begin <= end <= last:
        raise ValueError(f"0 ≤ begin ≤ end ≤ refresh must hold, not {begin}, {end}, {last}")
    if frequency < 1:
        raise ValueError(f"frequency must be at least 1, not {frequency}")


def _on_beat(step: int, begin: int, last: int | float, frequency: int) -> bool:
    return begin <= step <= last and (step - begin) % frequency == 0
