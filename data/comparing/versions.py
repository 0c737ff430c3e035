"""What is kept of a version of the dataset, so that the next one can be compared with it.

Of a version that was accepted, the samples may be gone. What stays is its profile: counts in bins, small
enough for git, and no sample in it.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from winnow.data.comparing import distributions
from winnow.data.folds import Vectors

SCHEMA_VERSION = 1
_BINS = 40  # of a measure: D comes out too small by 1/40 at most
_IDS = 256  # kept of a version, to estimate what two versions share
_NAMES = 500  # classes or groups that are counted one by one
_REST = ""  # those beyond


class Shift(NamedTuple):
    """One row of counts of each of two versions, in the same bins.

    Attributes:
        name: of the measure, say.
        kind: `measure`, `missing`, `projection`, `label_shift` or `groups`.
        a: counts of the old version.
        b: counts of the new one.
        ordered: whether neighbouring bins are alike.
        names: of the bins, if they are classes or groups.
        means: of both, if they are of numbers.
        spreads: their standard deviations.
    """

    name: str
    kind: str
    a: np.ndarray
    b: np.ndarray
    ordered: bool
    names: Sequence[str] = ()
    means: tuple[float, float] | None = None
    spreads: tuple[float, float] | None = None


def project(vectors: Vectors, number: int, seed: int) -> np.ndarray:
    """Look at vectors along some random directions, the same ones for the same seed and width."""
    width = vectors.shape[1]
    directions = np.random.default_rng(seed).normal(size=(width, number)) / np.sqrt(width)
    return np.asarray(vectors @ directions)


def profile(
    manifest: pd.DataFrame, measures: Sequence[str], vectors: Vectors, number: int, seed: int
) -> dict[str, Any]:
    """Describe a version of the dataset.

    Args:
        manifest: all samples.
        measures: its columns of numbers.
        vectors: descriptors of some samples.
        number: of directions to project them on.
        seed: of the directions.
    """
    seen = project(vectors, number, seed)
    return {
        "schema_version": SCHEMA_VERSION,
        "n": len(manifest),
        "measures": {name: _numbers(manifest[name].to_numpy(float)) for name in measures},
        "labels": _names(manifest["label"]),
        "groups": _names(hashed(manifest["group"])),
        "projections": {
            "width": int(vectors.shape[1]),
            "seed": seed,
            "columns": [_numbers(seen[:, i]) for i in range(number)],
        },
        "ids": sorted(manifest["id"])[:_IDS],
    }


def hashed(groups: pd.Series) -> pd.Series:
    """Hide the names of groups, which may be those of people; equal ones stay equal."""
    return groups.map(lambda name: hashlib.blake2b(str(name).encode(), digest_size=6).hexdigest(), "ignore")


def _numbers(values: np.ndarray) -> dict[str, Any]:
    known = values[np.isfinite(values)]
    if not len(known):
        return {"n": 0, "missing": len(values)}
    upper = distributions.edges(known, _BINS)
    counts = distributions.binned(known, upper).counts(np.arange(len(known)))
    return {
        "n": len(known),
        "missing": len(values) - len(known),
        "mean": _short(known.mean()),
        "std": _short(known.std()),
        "edges": upper.tolist(),
        "counts": counts.tolist(),
    }


def _short(value: float) -> float:
    return float(f"{value:.7g}")


def _names(column: pd.Series) -> dict[str, int]:
    counts = (
        column.dropna().astype(str).value_counts().sort_index().sort_values(ascending=False, kind="stable")
    )
    named = {str(name): int(n) for name, n in counts.iloc[:_NAMES].items()}
    rest = int(counts.iloc[_NAMES:].sum())
    return {**named, _REST: named.get(_REST, 0) + rest} if rest else named


def shifts(
    old: Mapping[str, Any], manifest: pd.DataFrame, measures: Sequence[str], vectors: Vectors
) -> tuple[list[Shift], list[dict[str, Any]]]:
    """Lay a version beside an old one's profile.

    Args:
        old: what `profile` gave of it.
        manifest: all samples of the new one.
        measures: its columns of numbers.
        vectors: descriptors of some of its samples.

    Returns:
        What can be compared, and the rows of what cannot be, each with its reason.
    """
    found: list[Shift] = []
    skipped: list[dict[str, Any]] = []

    def skip(name: str, kind: str, reason: str) -> None:
        skipped.append({"name": name, "kind": kind, "reason": reason})

    for name in sorted({*old["measures"], *measures}):
        if name not in old["measures"] or name not in measures:
            skip(
                name,
                "measure",
                f"not measured in {'this' if name in old['measures'] else 'the accepted'} version",
            )
            continue
        before, now = old["measures"][name], manifest[name].to_numpy(float)
        known = int(np.isfinite(now).sum())
        if before["missing"] or known < len(now):
            was, is_ = np.array([[before["n"], before["missing"]], [known, len(now) - known]])
            found.append(Shift(name, "missing", was, is_, ordered=False))
        if before["n"] and known:
            found.append(_against(name, "measure", before, now))
        else:
            skip(name, "measure", "one version has no value of it")
    kept = old["projections"]
    if kept["width"] == vectors.shape[1]:
        seen = project(vectors, len(kept["columns"]), kept["seed"])
        for i, before in enumerate(kept["columns"]):
            found.append(_against(f"descriptor {i + 1}", "projection", before, seen[:, i]))
    else:
        reason = f"descriptors are {vectors.shape[1]} numbers, and were {kept['width']}"
        skip("descriptors", "projection", reason)
    for key, kind, named in (
        ("labels", "label_shift", manifest["label"]),
        ("groups", "groups", hashed(manifest["group"])),
    ):
        before, after = old[key], named.dropna().astype(str).value_counts()
        if before and len(after):
            found.append(_named(kind, before, after))
        else:
            skip(kind, kind, f"one version has no {key}" if before or len(after) else f"there are no {key}")
    return found, skipped


def _against(name: str, kind: str, before: Mapping[str, Any], now: np.ndarray) -> Shift:
    column = distributions.binned(now, np.array(before["edges"]))
    known = now[np.isfinite(now)]
    return Shift(
        name, kind, np.array(before["counts"]), column.counts(np.arange(len(now))), ordered=True,
        means=(before["mean"], float(known.mean())), spreads=(before["std"], float(known.std())),
    )  # fmt: skip


def _named(kind: str, before: Mapping[str, int], after: pd.Series) -> Shift:
    names = list(dict.fromkeys([*before, *after.index]))
    if _REST in before:  # which classes were folded into the rest is not known any more
        names = list(before)
        after = after.groupby(after.index.where(after.index.isin(names), _REST)).sum()
    a, b = (np.array([int(side.get(name, 0)) for name in names]) for side in (before, after))
    return Shift(kind, kind, a, b, ordered=False, names=names)


def retained(old: Sequence[str], ids: Iterable[str]) -> float:
    """Estimate the share of an old version's samples that the new one still holds.

    Ids are hashes: the least ones of a version are a random sample of it.

    Args:
        old: the least ids of the old version.
        ids: all ids of the new one.
    """
    return len(set(old) & set(ids)) / len(old) if len(old) else 0.0
