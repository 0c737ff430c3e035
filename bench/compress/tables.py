"""What many runs came to: rows of a table, and what may be said of a control."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bench.compress.arms import Found
from winnow.data.intervals import paired_difference, verdict

RATIOS = ("counted", "packed", "compressed", "whole_file")


class Row(NamedTuple):
    """What an arm came to, over all splits and seeds.

    Attributes:
        arm: its name.
        right: of each test sample, the share of seeds that told it right.
        scores: accuracy of each seed [%].
        lost: accuracy lost, and its interval [points].
        ratios: mean of each of `RATIOS`.
        size_bytes: mean.
    """

    arm: str
    right: np.ndarray
    scores: list[float]
    lost: tuple[float, float, float]
    ratios: list[float]
    size_bytes: float

    @property
    def under_one(self) -> bool:
        """Whether less than a point is lost, and less than two at the interval's upper end."""
        mean, _, most = self.lost
        return mean < 1 and most < 2

    def __str__(self) -> str:
        mean, least, most = self.lost
        spread = np.std(self.scores, ddof=min(1, len(self.scores) - 1))
        cells = [
            self.arm,
            f"{np.mean(self.scores):.2f} ± {spread:.2f}",
            f"{mean:+.2f} ({least:+.2f} … {most:+.2f})",
            "yes" if self.under_one else "no",
            *(f"{ratio:.1f}×" for ratio in self.ratios),
            f"{self.size_bytes / 1000:.1f}",
        ]
        return f"| {' | '.join(cells)} |"


def row(arm: str, teacher: np.ndarray, seeds: Sequence[Sequence[Found]]) -> Row:
    """Put an arm's runs together: of each seed, what was found on each split."""
    right = [np.concatenate([one.right for one in found]) for found in seeds]
    mean = np.mean(right, axis=0)
    difference, low, high = paired_difference(teacher, mean, seed=0)
    every = [one for found in seeds for one in found]
    return Row(
        arm,
        mean,
        [100 * float(one.mean()) for one in right],
        (-100 * difference, -100 * high, -100 * low),
        [float(np.mean([one.ratios[key] for one in every])) for key in RATIOS],
        float(np.mean([one.size_bytes for one in every])),
    )


def head() -> str:
    """Give the first two lines of a table of rows."""
    names = " | ".join(RATIOS).replace("_", " ")
    return f"| | accuracy, % | lost, points | under one | {names} | kB |\n|{'---|' * (5 + len(RATIOS))}"


def against(one: Row, rival: Row) -> str:
    """Say whether an arm beats another on the same samples."""
    difference, low, high = paired_difference(rival.right, one.right, seed=0)
    return (
        f"{one.arm} against {rival.arm}: {100 * difference:+.2f} points "
        f"({100 * low:+.2f} … {100 * high:+.2f}), {verdict(low, high)}"
    )


def times(found: Mapping[str, Mapping[int, float]]) -> str:
    """Give a table of what each took, and of its share of the first."""
    sizes = list(next(iter(found.values())))
    first = next(iter(found.values()))
    lines = [f"| model | runtime | {' | '.join(f'batch {size}: ms a sample | share' for size in sizes)} |"]
    lines.append(f"|---|---|{'---:|' * 2 * len(sizes)}")
    for name, taken in found.items():
        cells = (f"{taken[size]:.3f} | {taken[size] / first[size]:.2f}" for size in sizes)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def records(
    title: str,
    teacher: np.ndarray,
    size_bytes: int,
    rows: Sequence[Row],
    dense: set[str],
    taken: Mapping[str, Mapping[int, float]],
) -> list[dict[str, Any]]:
    """Give what `winnow.compress.variants.render` draws of a dataset, with the time of the fastest runtime.

    Args:
        title: of the dataset.
        teacher: whether it told each test sample right.
        size_bytes: of the teacher's file.
        rows: of the arms.
        dense: those of them that are controls.
        taken: what each took, or nothing; see `bench.compress.arms.timed`.
    """

    def ms(name: str) -> float | None:
        own = [times[1] for model, times in taken.items() if model.startswith(f"{name} | ")]
        return min(own) if own else None

    whole = float(teacher.mean())
    first = {"name": "teacher", "group": "teacher", "accuracy": whole, "bytes": size_bytes}
    found = [{**first, "set": title, "ms": ms("teacher")}]
    for one in rows:
        # The interval of the loss, around the teacher's accuracy: that is what arms are compared by.
        _, least, most = one.lost
        found.append(
            {
                "set": title,
                "name": one.arm,
                "group": "control" if one.arm in dense else "int8",
                "accuracy": float(np.mean(one.scores)) / 100,
                "low": whole - most / 100,
                "high": whole - least / 100,
                "bytes": one.size_bytes,
                "ms": ms(one.arm),
            }
        )
    return found
