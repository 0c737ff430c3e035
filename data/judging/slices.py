"""Slices: where the model errs more than elsewhere, and which classes it mixes up.

A slice is a class, a group, or a range of a measure (length, loudness, brightness). Each is held against
the rest of the samples, and all of them are tested together.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse
from scipy.stats import fisher_exact

from winnow.data.intervals import false_discovery_rates, wilson

_UNITS = {
    "seconds": "s", "_ms": "ms", "_dbfs": "dBFS", "_db": "dB", "_hz": "Hz", "_px": "px", "_bits": "bits",
}  # fmt: skip
_NOTHING: dict[str, Any] = dict.fromkeys(
    ("slice", "n", "errors", "error", "low", "high", "p", "q", "excess", "worse")
)


@dataclass(frozen=True, kw_only=True)
class Slicing:
    """How samples are cut into slices, and when one is called worse than the rest.

    Attributes:
        bins: ranges of a measure, with about as many samples each.
        min_size: samples of a slice; smaller ones are left out.
        alpha: false discovery rate over all slices.
        min_excess: error of a worse slice beyond that of the rest [0–1].
    """

    bins: int
    min_size: int
    alpha: float
    min_excess: float


def slices(wrong: np.ndarray, columns: Mapping[str, pd.Series], slicing: Slicing) -> list[dict[str, Any]]:
    """Measure the error of every slice, with its interval and a test against the rest.

    Args:
        wrong: whether the out-of-fold prediction of each sample differs from its given label.
        columns: what is known of the samples, by name: classes and groups as strings or None, measures
            as numbers or NaN. A measure of few values has a slice for each.
        slicing: sizes and thresholds.

    Returns:
        A row for each slice, worse ones first, by their excess over the rest; then one, with the status
        `skipped` and a reason, for each column of which something is left out. `error` is a share
        [0–1] with its 95 % interval, `p` Fisher's exact test of it against the rest, two-sided, and `q`
        the same over all slices.
    """
    rows: list[dict[str, Any]] = []
    left: list[dict[str, Any]] = []
    total = int(wrong.sum())
    for by, column in columns.items():
        small = members = 0
        found = []
        for name, inside in _cut(column, slicing.bins):
            n = int(inside.sum())
            if n < slicing.min_size:
                small, members = small + 1, members + n
            else:
                found.append(_row(by, name, n, int(wrong[inside].sum()), len(wrong), total))
        if len(found) == 1 and found[0]["n"] == len(wrong):
            left.append(_skipped(by, f"all samples have the value {found[0]['slice']}"))
            continue
        rows += found
        if small:
            several = f"{small} slices of" if small > 1 else "1 slice of"
            left.append(_skipped(by, f"{several} less than {slicing.min_size} samples: {members} in all"))
        elif not found:
            left.append(_skipped(by, "no sample has a value"))
    for row, q in zip(rows, false_discovery_rates([row["p"] for row in rows]), strict=True):
        row["q"] = float(f"{q:.6g}")
        row["worse"] = bool(q < slicing.alpha and row["excess"] >= slicing.min_excess)
    return sorted(rows, key=lambda row: (not row["worse"], -row["excess"], row["by"], row["slice"])) + left


def _row(by: str, name: str, n: int, errors: int, size: int, total: int) -> dict[str, Any]:
    low, high = wilson(errors, n)
    rest = size - n
    other = (total - errors) / rest if rest else errors / n
    # Of one slice that holds all, nothing is left to differ from.
    p = fisher_exact([[errors, n - errors], [total - errors, rest - total + errors]]).pvalue if rest else 1.0
    return {
        "by": by, "slice": name, "status": "ok", "reason": "", "n": n, "errors": errors,
        "error": round(errors / n, 6), "low": round(low, 6), "high": round(high, 6),
        "p": float(f"{min(float(p), 1.0):.6g}"), "q": None, "excess": round(errors / n - other, 6),
        "worse": None,
    }  # fmt: skip


def _skipped(by: str, reason: str) -> dict[str, Any]:
    return {"by": by, "status": "skipped", "reason": reason, **_NOTHING}


def _cut(column: pd.Series, bins: int) -> Iterator[tuple[str, np.ndarray]]:
    """Cut the samples by a column; give each slice's name and its members."""
    if not pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column):
        codes, names = pd.factorize(column, sort=True)
        order = np.argsort(codes, kind="stable")
        bounds = np.searchsorted(codes[order], np.arange(len(names) + 1))
        for name, start, end in zip(names, bounds, bounds[1:], strict=False):
            inside = np.zeros(len(codes), bool)
            inside[order[start:end]] = True
            yield str(name), inside
        return
    values = column.to_numpy(float)
    known = values[np.isfinite(values)]
    unit = _unit(str(column.name or ""))
    distinct = np.unique(known)
    if len(distinct) <= bins:
        for value, name in zip(distinct, _written(distinct), strict=True):
            yield f"{name}{unit}", values == value
        return
    edges = np.unique(np.quantile(known, np.linspace(0, 1, bins + 1), method="inverted_cdf"))
    if edges[0] == known.min() and (known == edges[0]).mean() * bins >= 1:
        # A value that fills a range by itself is one: half of all texts repeat nothing, say.
        edges = np.concatenate([[-np.inf], edges])
    else:
        edges[0] = -np.inf
    names = _written(np.concatenate([distinct[:1], edges[1:]]))
    for i, (low, high) in enumerate(pairwise(edges)):
        first, last = names[i], names[i + 1]
        dash = " to " if "−" in first + last else "–"
        name = first if first == last else f"{first}{dash}{last}"
        yield f"{name}{unit}", (values > low) & (values <= high)


def _unit(measure: str) -> str:
    return next((f" {unit}" for end, unit in _UNITS.items() if measure.endswith(end)), "")


def _written(values: np.ndarray) -> list[str]:
    """Write ascending numbers with as few digits as tell the different ones apart, three at least."""
    for digits in range(3, 18):
        names = [f"{value:.{digits}g}" for value in values]
        if len(set(names)) == len(np.unique(values)):
            break
    plain = [f"{float(name):.10f}".rstrip("0").rstrip(".") if "e" in name else name for name in names]
    return [name.replace("-", "−") for name in plain]


def ambiguous_pairs(
    judged: np.ndarray, given: np.ndarray, classes: Sequence[str], *, most: int
) -> list[dict[str, Any]]:
    """Find the pairs of classes that a model mixes up most, in either direction.

    Args:
        judged: out-of-fold probabilities `[sample, class]`.
        given: class index of each sample as delivered.
        classes: their names.
        most: pairs to give.

    Returns:
        For each pair `a`, `b`: `n` samples of one that are predicted as the other, their `share` of the
        samples of both with its interval, and `belief`, the mean probability of the other class [0–1].
    """
    size = len(classes)
    ones = scipy.sparse.csr_array(
        (np.ones(len(given)), (given, np.arange(len(given)))), shape=(size, len(given))
    )
    belief = ones @ judged
    mixed = np.zeros((size, size), int)
    np.add.at(mixed, (given, judged.argmax(1)), 1)
    number = np.bincount(given, minlength=size)
    belief, mixed = belief + belief.T, mixed + mixed.T
    a, b = np.nonzero(np.triu(mixed, 1))
    both = number[a] + number[b]
    order = np.lexsort((b, a, -mixed[a, b] / both, -mixed[a, b]))[:most]
    rows = []
    for i, j, n in zip(a[order], b[order], both[order], strict=True):
        low, high = wilson(int(mixed[i, j]), int(n))
        rows.append(
            {
                "a": classes[i],
                "b": classes[j],
                "n": int(mixed[i, j]),
                "share": round(float(mixed[i, j] / n), 6),
                "low": round(low, 6),
                "high": round(high, 6),
                "belief": round(float(belief[i, j] / n), 6),
            }
        )
    return rows
