"""How a split differs from the one that is learned from.

A random split differs by chance, a split by groups by which groups fell into it: chance deals what the
split dealt, samples or whole groups.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from winnow.data.comparing import comparison, distributions
from winnow.data.comparing.comparison import skipped, tested
from winnow.data.comparing.distributions import Column
from winnow.data.comparing.domain import Classifier, domain
from winnow.data.folds import Vectors

_BINS = 200  # of a measure: D comes out too small by 1/200 at most
_FEW = "too few groups to be sure of any difference"


class Units(NamedTuple):
    """What a split deals as a whole.

    Attributes:
        of: unit of each sample, from 0.
        second: whether a unit is on the second side.
        name: `sample` or `group`.
    """

    of: np.ndarray
    second: np.ndarray
    name: str

    @property
    def least_p(self) -> float:
        """The least p-value that can come out: one of all ways to deal the units."""
        return 1 / math.comb(len(self.second), int(self.second.sum()))


def units(group: pd.Series, second: np.ndarray) -> Units:
    """Find out what was dealt: groups, if most samples of groups stand in groups of one side.

    Args:
        group: of each sample, or None.
        second: whether a sample is on the second side.
    """
    known = group.notna().to_numpy()
    crossing = group.isin(set(group[second & known]) & set(group[~second & known])).to_numpy()
    if group[known].is_unique or 2 * (crossing & known).sum() >= known.sum():
        return Units(np.arange(len(group)), second, "sample")
    # A sample without a group is a unit of its own; a group on both sides is one on each.
    keys = [
        (name, bool(b)) if has else i
        for i, (name, b, has) in enumerate(zip(group, second, known, strict=True))
    ]
    of, first = pd.factorize(pd.Series(keys, dtype=object))
    side = np.zeros(len(first), bool)
    side[of] = second
    return Units(of, side, "group")


def compare(
    manifest: pd.DataFrame, split: str, measures: list[str], *, alpha: float, permutations: int, seed: int
) -> dict[str, Any]:
    """Compare measures, labels and groups of train with those of another split.

    Args:
        manifest: all samples.
        split: the other one.
        measures: columns of numbers.
        alpha: if no p-value can come out below it, nothing is tested, and effects stand alone.
        permutations: deals of the units.
        seed: of the deals.
    """
    part = manifest[manifest["split"].isin(["train", split])].reset_index(drop=True)
    second = (part["split"] == split).to_numpy()
    sizes = int((~second).sum()), int(second.sum())
    if not all(sizes):
        empty = split if sizes[0] else "train"
        return comparison.comparison(split, "train", split, *sizes, f"there is no sample in {empty}")
    compared = comparison.comparison(split, "train", split, *sizes)
    dealt = units(part["group"], second)
    compared |= {"unit": dealt.name, "reason": _reason(dealt, split, alpha)}
    columns, rows = _columns(part, second, measures)
    if dealt.name == "sample" and part["group"].notna().any():
        columns["groups", "groups"] = _named(part["group"])
    for (name, kind), found in _distances(columns, dealt, permutations, seed).items():
        row = tested(name, kind, found, ordered=columns[name, kind].ordered)
        if kind == "measure":
            sides = [part[name].to_numpy(float)[rows_] for rows_ in (~second, second)]
            sides = [values[np.isfinite(values)] for values in sides]
            row |= comparison.numbers(*(tuple(f(v) for v in sides) for f in (np.mean, np.std)))
        if kind in ("label_shift", "groups"):
            compared[kind] = row
        else:
            rows.append(row)
    compared["features"] = sorted(rows, key=lambda row: (row["kind"], row["name"]))
    _labels(compared, part, second)
    _groups(compared, part, second)
    if dealt.least_p > alpha:
        compared["status"] = "skipped"
        for row in (*compared["features"], compared["label_shift"]):
            if row["status"] == "ok":
                row |= {"status": "skipped", "reason": _FEW, "p": None}
    return compared


def _reason(dealt: Units, split: str, alpha: float) -> str:
    if dealt.name == "sample":
        return ""
    there, here = int(dealt.second.sum()), int((~dealt.second).sum())
    told = f"{split} holds groups that train has none of: whole groups are dealt, {here} and {there}"
    if dealt.least_p > alpha:
        return f"{told}; of so few none is sure (no p below {dealt.least_p:.2g}): sizes are given alone"
    return told


def _columns(
    part: pd.DataFrame, second: np.ndarray, measures: list[str]
) -> tuple[dict[tuple[str, str], Column], list[dict[str, Any]]]:
    """Cut what is known of the samples into bins; what one side has no value of is skipped."""
    columns, rows = {}, []
    for name in measures:
        values = part[name].to_numpy(float)
        known = np.isfinite(values)
        if not known.all():
            columns[name, "missing"] = Column(known.astype(int), 2, ordered=False)
        if known[second].any() and known[~second].any():
            columns[name, "measure"] = distributions.binned(values, distributions.edges(values[known], _BINS))
        else:
            rows.append(skipped(name, "measure", "one side has no value of it"))
    if part["label"][second].notna().any() and part["label"][~second].notna().any():
        columns["label_shift", "label_shift"] = _named(part["label"])
    return columns, rows


def _named(column: pd.Series) -> Column:
    codes, names = pd.factorize(column, sort=True)
    return Column(codes, len(names), ordered=False)


def _distances(
    columns: dict[tuple[str, str], Column], dealt: Units, permutations: int, seed: int
) -> dict[tuple[str, str], distributions.Distance]:
    if dealt.name == "group":
        found = distributions.by_block(
            list(columns.values()), dealt.of, dealt.second, permutations=permutations, seed=seed
        )
        return dict(zip(columns, found, strict=True))
    random = np.random.default_rng(seed)
    return {
        name: distributions.by_sample(
            column.counts(~dealt.second), column.counts(dealt.second),
            ordered=column.ordered, permutations=permutations, random=random,
        )
        for name, column in columns.items()
    }  # fmt: skip


def _labels(compared: dict[str, Any], part: pd.DataFrame, second: np.ndarray) -> None:
    label = part["label"].dropna()
    if compared["label_shift"]["status"] != "ok":
        compared["label_shift"]["reason"] = "one side has no labels" if len(label) else "there are no labels"
        return
    names = sorted(label.unique())
    sides = [label[rows[label.index]].value_counts() for rows in (~second, second)]
    counts = [np.array([int(side.get(name, 0)) for name in names]) for side in sides]
    compared["label_shift"] |= comparison.names(names, *counts)


def _groups(compared: dict[str, Any], part: pd.DataFrame, second: np.ndarray) -> None:
    if part["group"].isna().all():
        compared["groups"]["reason"] = "there are no groups"
        return
    compared["groups"] |= comparison.shared(part["group"][~second], part["group"][second])
    if compared["unit"] == "group":
        compared["groups"]["reason"] = "the splits keep groups whole: which ones differ was chosen"


def tell_apart(
    compared: dict[str, Any],
    part: pd.DataFrame,
    vectors: Vectors,
    classifier: Classifier,
    *,
    alpha: float,
    permutations: int,
    seed: int,
) -> None:
    """Complete a comparison by what a domain classifier makes of the descriptors.

    Args:
        compared: completed in place.
        part: some samples of both sides.
        vectors: their descriptors.
        classifier: the model.
        alpha: as above.
        permutations: deals of the units.
        seed: of everything drawn.
    """
    if compared["unit"] is None:
        return
    second = (part["split"] == compared["b"]).to_numpy()
    # Of some samples one cannot tell what was dealt: it is as it was for all.
    alone = pd.Series([None] * len(part), dtype=object)
    dealt = units(part["group"] if compared["unit"] == "group" else alone, second)
    sides = int((~dealt.second).sum()), int(dealt.second.sum())
    if min(sides) < 2:
        compared["domain"]["reason"] = f"{sides[0]} and {sides[1]} {dealt.name}s: none can be held out"
        return
    found = domain(vectors, dealt.of, dealt.second, classifier, permutations=permutations, seed=seed)
    row: dict[str, Any] = {"status": "ok", "reason": "", "effect": found.auc, "effect_name": "AUC"}
    # Held out by groups, chance may give less than 0.5: nobody is to be better for that.
    row |= {**found._asdict(), "chance": max(found.chance, 0.5)}
    row = {key: round(value, 6) if isinstance(value, float) else value for key, value in row.items()}
    if dealt.least_p > alpha:
        row |= {"status": "skipped", "p": None, "reason": _FEW}
    compared["domain"] |= row
