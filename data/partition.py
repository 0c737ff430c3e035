"""Which split each sample is in: groups whole, classes in proportion."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from winnow.data.stage import BadInput


@dataclass(frozen=True)
class Splits:
    """Shares of the samples that are not learnt from, where the source does not say.

    Attributes:
        validation: to choose by.
        test: to score by.
    """

    validation: float
    test: float

    def __post_init__(self) -> None:
        if min(self.validation, self.test) < 0 or self.validation + self.test >= 1:
            raise ValueError(f"shares must be at least 0 and sum to less than 1, not {self}")


def assign_splits(manifest: pd.DataFrame, splits: Splits, random: np.random.Generator) -> pd.Series:
    """Put each sample in a split: groups whole, classes in proportion.

    What the source puts in a split stays there. Splits that it does not name are carved out of the
    rest and of its train split. Unlabelled samples are for training, unless their group is not.

    Raises:
        BadInput: if a split that is asked for would be empty.
    """
    given = manifest["split"].dropna().unique()
    shares = {"validation": splits.validation, "test": splits.test}
    shares = {name: share for name, share in shares.items() if share and name not in given}
    fixed = manifest["split"].where(manifest["split"] != "train") if shares else manifest["split"]
    # A sample without a group is a group of its own.
    groups = manifest["group"].where(manifest["group"].notna(), manifest["id"])
    # Of a group that the source put in a split, the samples without a split go there as well.
    fixed = fixed.fillna(groups.map(fixed.groupby(groups).first()))

    free = fixed.isna() & manifest["label"].notna()
    chosen = _share_out(groups[free], manifest["label"][free], shares, random)
    for name in shares:
        if free.any() and name not in set(chosen):
            raise BadInput(
                f"split {name!r} would be empty: splits.{name} is {shares[name]:g}, and there are "
                f"{free.sum()} labelled samples in {groups[free].nunique()} groups to share out"
            )
    return fixed.fillna(groups.map(chosen)).fillna("train").astype(object)


def _share_out(
    groups: pd.Series, labels: pd.Series, shares: dict[str, float], random: np.random.Generator
) -> pd.Series:
    """Give each group a split, so that every class is spread by the shares.

    Groups are handed out as seats are by the Webster method, large ones first: each to the split
    that is owed most, share over what it has, summed over the classes of the group's samples.
    """
    names = np.array(["train", *shares], dtype=object)
    share = np.array([1 - sum(shares.values()), *shares.values()])
    classes = pd.factorize(labels, sort=True)[0]
    has = np.zeros((len(names), classes.max(initial=-1) + 1))
    group, keys = pd.factorize(groups, sort=True)
    rows, size = np.argsort(group, kind="stable"), np.bincount(group, minlength=len(keys))
    first = np.cumsum(size) - size
    shuffled = random.permutation(len(keys))
    order = shuffled[np.argsort(-size[shuffled], kind="stable")]
    several = int((size > 1).sum())
    chosen = np.zeros(len(keys), int)
    for i in order[:several]:
        present, counts = np.unique(classes[rows[first[i] : first[i] + size[i]]], return_counts=True)
        owed = counts * share[:, None] / (2 * has[:, present] + counts)
        chosen[i] = owed.sum(axis=1).argmax()
        has[chosen[i], present] += counts
    # What is left are single samples. Those of one class wait for seats of that class alone, so that
    # its seats can be dealt at once.
    single = classes[rows[first[order[several:]]]]
    for class_ in np.unique(single):
        waiting = order[several:][single == class_]
        owed = share[:, None] / (2 * (has[:, [class_]] + np.arange(len(waiting))) + 1)
        seats = np.argsort(-owed.ravel(), kind="stable")[: len(waiting)]
        chosen[waiting] = seats // len(waiting)
    return pd.Series(names[chosen], index=keys, dtype=object)
