"""source → samples + manifest + rejects.

Every datum of the source ends in one of two tables: in the manifest, with its payload in the store
and its descriptor beside it, or in the rejects, with a reason in words for the data's owner.
"""

import logging
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
from rich.console import Console
from rich.progress import track

from winnow.data import store
from winnow.data.modality import Decoded, Modality, Reject
from winnow.data.sources import Record, Source
from winnow.data.stage import BadInput, run

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
_KEPT = ("label", "split", "group", "source")  # of a record
_REASONS_SHOWN = 5


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


def main(
    modality: Modality,
    raw: Path,
    out: Path,
    *,
    source: Source,
    splits: Splits,
    min_class_size: int,
    max_rejects: float,
    label_noise: float,
    seed: int,
) -> None:
    """Bring a source into the store; memory grows with the rows, not with their payloads.

    Args:
        modality: what kind of data it is.
        raw: the folder or file that holds it.
        out: folder for samples, descriptors, manifest, rejects, truth and metrics.
        source: how the data lies there.
        splits: shares for what the source puts in no split.
        min_class_size: labelled samples that a class needs; those of smaller ones are rejected.
        max_rejects: share of rejects above which something is wrong with the source as a whole.
        label_noise: share of labels in train and validation to plant wrong, to score the audit by.
        seed: of splits and of planted labels.

    Raises:
        BadInput: if the source holds nothing, or too little that can be used.
    """
    manifest, rejects = _store_samples(modality, source.records(raw, modality.suffixes), out)
    inputs = len(manifest) + len(rejects)
    manifest, rejects = _drop_small_classes(manifest, rejects, min_class_size, out)
    assert len(manifest) + len(rejects) == inputs
    _refuse_too_many(rejects, inputs, max_rejects, raw)

    random = np.random.default_rng(seed)
    manifest["split"] = assign_splits(manifest, splits, random)
    truth = manifest[["id", "label"]].copy()
    manifest["label"] = plant_noise(manifest, label_noise, random)

    store.write_table(out / "manifest.parquet", manifest)
    store.write_table(out / "rejects.parquet", rejects)
    store.write_table(out / "truth.parquet", truth)
    with store.vector_writer(out / "descriptors") as vectors:
        for id_, payload in _progress(store.payloads(out), "describing", len(manifest)):
            vectors.add(id_, modality.descriptor(payload))
    metrics = _metrics(manifest, rejects, truth)
    store.write_json(out / "metrics.json", metrics)
    _log.info("%s", ", ".join(f"{name} {value:g}" for name, value in metrics.items()))
    for reason in _commonest(rejects):
        _log.warning("rejected %s", reason)


def _store_samples(
    modality: Modality, records: Iterable[Record], out: Path
) -> tuple[pd.DataFrame, pd.DataFrame]:
    rows: list[dict[str, str | float | None]] = []
    rejects: list[tuple[str, str]] = []
    ids: set[str] = set()
    with store.sample_writer(out) as samples:
        for record in _progress(records, "reading"):
            try:
                id_, decoded = _decode(modality, record, ids)
            except Reject as reject:
                rejects.append((record.source, str(reject)))
                continue
            ids.add(id_)
            samples.add(id_, decoded.payload)
            columns = {name: getattr(record, name) for name in _KEPT}
            rows.append({"id": id_, **columns, **decoded.measures})
    manifest = pd.DataFrame(rows, columns=None if rows else ["id", *_KEPT])
    # As objects, what is missing stays None; pandas' own strings would turn it into NaN.
    for name in _KEPT:
        manifest[name] = pd.Series([row[name] for row in rows], dtype=object)
    return manifest, pd.DataFrame(rejects, columns=["source", "reason"], dtype=object)


def _decode(modality: Modality, record: Record, ids: set[str]) -> tuple[str, Decoded]:
    if record.raw is None:
        raise Reject(record.reason)
    id_ = store.sample_id(record.source, record.raw)
    if id_ in ids:
        raise Reject("same content and source as an earlier record")
    return id_, modality.decode(record.raw)


def _drop_small_classes(
    manifest: pd.DataFrame, rejects: pd.DataFrame, min_size: int, out: Path
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Move the samples of classes that are too small to the rejects, and out of the store."""
    sizes = manifest["label"].map(manifest["label"].value_counts())
    small = (sizes < min_size).to_numpy()
    if not small.any():
        return manifest, rejects
    reasons = [
        f"class {label!r} has {int(size)} of the {min_size} samples that a class needs"
        for label, size in zip(manifest["label"][small], sizes[small], strict=True)
    ]
    dropped = pd.DataFrame({"source": manifest["source"][small], "reason": reasons}, dtype=object)
    manifest = manifest[~small].reset_index(drop=True)
    # Whether a class is small is known only when all is stored, so this rare case copies the store.
    everything = out / "everything"
    everything.mkdir()
    (out / "samples").rename(everything / "samples")
    with store.sample_writer(out) as samples:
        for id_, payload in store.payloads(everything, manifest["id"].tolist()):
            samples.add(id_, payload)
    shutil.rmtree(everything)
    return manifest, pd.concat([rejects, dropped], ignore_index=True)


def _refuse_too_many(rejects: pd.DataFrame, inputs: int, max_share: float, raw: Path) -> None:
    if not inputs:
        raise BadInput(f"{raw} holds nothing")
    if len(rejects) == inputs or len(rejects) > max_share * inputs:
        raise BadInput(
            f"{len(rejects)} of {inputs} records of {raw} were rejected, more than max_rejects "
            f"{max_share:g} allows:\n  " + "\n  ".join(_commonest(rejects))
        )


def _commonest(rejects: pd.DataFrame) -> list[str]:
    """Name the most frequent reasons, each with its count and the first source it befell."""
    # What differs from file to file (numbers, quoted names) does not make another reason.
    kinds = rejects["reason"].str.replace(r"'[^']*'|\d[\d.,]*", "…", regex=True)
    counts = kinds.value_counts()
    first = rejects[~kinds.duplicated()].set_axis(kinds[~kinds.duplicated()])
    return [
        f"{counts[kind]}×: {first.loc[kind, 'reason']} (first: {first.loc[kind, 'source']})"
        for kind in counts.index[:_REASONS_SHOWN]
    ]


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
        if name not in chosen.values() and free.any():
            raise BadInput(
                f"split {name!r} would be empty: splits.{name} is {shares[name]:g}, and there are "
                f"{free.sum()} labelled samples in {groups[free].nunique()} groups to share out"
            )
    return fixed.fillna(groups.map(chosen)).fillna("train").astype(object)


def _share_out(
    groups: pd.Series, labels: pd.Series, shares: dict[str, float], random: np.random.Generator
) -> dict[str, str]:
    """Give each group a split, so that every class is spread by the shares.

    Groups are handed out as seats are by the Webster method, large ones first: each to the split
    that is owed most, share over what it has, summed over the classes of the group's samples.
    """
    names = ["train", *shares]
    share = np.array([1 - sum(shares.values()), *shares.values()])
    classes = pd.factorize(labels, sort=True)[0]
    has = np.zeros((len(names), classes.max(initial=-1) + 1))
    members = pd.Series(classes).groupby(groups.to_numpy(), sort=True)
    rows = list(members.indices.values())
    keys = list(members.indices)
    shuffled = random.permutation(len(rows))
    chosen = {}
    for i in sorted(shuffled, key=lambda i: -len(rows[i])):
        present, counts = np.unique(classes[rows[i]], return_counts=True)
        owed = counts * share[:, None] / (2 * has[:, present] + counts)
        winner = int(owed.sum(axis=1).argmax())
        has[winner, present] += counts
        chosen[keys[i]] = names[winner]
    return chosen


def plant_noise(manifest: pd.DataFrame, rate: float, random: np.random.Generator) -> pd.Series:
    """Give a share of the labelled samples another label, uniformly; in train and validation.

    The test split keeps its labels: it is what everything is scored on.

    Raises:
        BadInput: if there is no other label to give.
    """
    labels = manifest["label"].copy()
    classes = np.array(sorted(labels.dropna().unique()), dtype=object)
    if rate and len(classes) == 1:
        raise BadInput(f"label_noise {rate:g} needs a second class beside {classes[0]!r}")
    for split in ("train", "validation"):
        rows = np.flatnonzero((manifest["split"] == split) & labels.notna())
        wrong = random.choice(rows, round(rate * len(rows)), replace=False)
        steps = random.integers(1, max(2, len(classes)), len(wrong))
        true = np.searchsorted(classes, labels.iloc[wrong].to_numpy())
        labels.iloc[wrong] = classes[(true + steps) % max(1, len(classes))]
    return labels


def _metrics(manifest: pd.DataFrame, rejects: pd.DataFrame, truth: pd.DataFrame) -> dict[str, int | float]:
    labelled = manifest["label"].notna()
    return {
        "samples": len(manifest),
        "labelled": int(labelled.sum()),
        "classes": manifest["label"].nunique(),
        "groups": manifest["group"].nunique(),
        **{split: int((manifest["split"] == split).sum()) for split in store.SPLITS},
        "rejects": len(rejects),
        "reject_share": len(rejects) / (len(manifest) + len(rejects)),
        "planted": int((manifest["label"] != truth["label"])[labelled].sum()),
    }


def _progress(rows: Iterable[_T], doing: str, total: int | None = None) -> Iterator[_T]:
    console = Console(stderr=True)
    hidden = not console.is_terminal
    yield from track(rows, doing, total, console=console, transient=True, disable=hidden)


if __name__ == "__main__":
    run(main)
