"""source → samples + manifest + rejects.

Every datum of the source ends in one of two tables: in the manifest, with its payload in the store
and its descriptor beside it, or in the rejects, with a reason in words for the data's owner.
"""

import logging
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console
from rich.progress import track

from winnow.data import store
from winnow.data.engine import Engine, mapped
from winnow.data.modality import Modality
from winnow.data.partition import Splits, assign_splits
from winnow.data.shards import keep
from winnow.data.sources.decoding import KEPT, decode, descriptors_of, record_tables
from winnow.data.sources.records import Source
from winnow.data.stage import BadInput, run

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
_FEW = ("label", "split", "group")  # columns in which the same text stands often
_REASONS_SHOWN = 5


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
    engine: Engine,
    workers: int,
) -> None:
    """Bring a source into the store; memory grows with the rows, not with their payloads.

    Args:
        modality: what kind of data it is.
        raw: the folder or file that holds it.
        out: for kind, samples, descriptors, fingerprints, manifest, annotations, targets, rejects, truth,
            metrics.
        source: how the data lies there.
        splits: shares for what the source puts in no split.
        min_class_size: labelled samples that a class needs; those of smaller ones are rejected.
        max_rejects: share of rejects above which something is wrong with the source as a whole.
        label_noise: share of labels in train and validation to plant wrong, to score the audit by.
        seed: of splits and of planted labels.
        engine: where records are decoded: "local", or "ray" for a Ray cluster.
        workers: processes that decode at a time; 1 with "local" is this one.

    Raises:
        BadInput: if the source holds nothing, or too little that can be used.
    """
    tables = record_tables(_progress(source.records(raw, modality.suffixes), "reading"))
    decoded = mapped(partial(decode, modality), tables, engine, workers)
    manifest, annotations, targets, rejects = _store(decoded, out)
    inputs = len(manifest) + len(rejects)
    manifest, rejects = _drop_small_classes(manifest, rejects, min_class_size, out)
    assert len(manifest) + len(rejects) == inputs
    _refuse_too_many(rejects, inputs, max_rejects, raw)

    random = np.random.default_rng(seed)
    targets = targets[targets["id"].isin(manifest["id"])]
    manifest["split"] = assign_splits(_to_spread(manifest, targets), splits, random)
    truth = manifest[["id", "label"]].copy()
    manifest["label"] = plant_noise(manifest, label_noise, random)

    store.write_kind(out, store.Kind(type(modality).__name__, modality.media_type, modality.min_agreement))
    store.write_table(out / "manifest.parquet", manifest)
    store.write_table(out / "rejects.parquet", rejects)
    store.write_table(out / "truth.parquet", truth)
    of_kept = annotations["id"].isin(manifest["id"])
    store.write_table(out / "annotations.parquet", annotations[of_kept])
    store.write_table(out / "targets.parquet", targets)
    metrics = _metrics(manifest, rejects, truth)
    store.write_json(out / "metrics.json", metrics)
    _log.info("%s", ", ".join(f"{name} {value:g}" for name, value in metrics.items()))
    for reason in _commonest(rejects):
        _log.warning("rejected %s", reason)


def _store(
    decoded: Iterable[pa.Table], out: Path
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Write what was found of the records, and gather manifest, annotations, targets and rejects."""
    ids: set[bytes] = set()
    rows: list[pa.Table] = []
    measures: list[pd.DataFrame] = []
    rejects: list[pa.Table] = []
    with (
        store.sample_writer(out) as samples,
        store.vector_writer(out / "descriptors") as descriptors,
        store.fingerprint_writer(out) as fingerprints,
    ):
        for table in decoded:
            table = _refuse_repeated(table, ids)
            usable = pc.is_null(table["reason"])
            rejects.append(table.filter(pc.invert(usable)).select(["source", "reason"]))
            kept = table.filter(usable)
            if not len(kept):
                continue
            samples.extend(kept.select(["id", "payload"]))
            descriptors.extend(descriptors_of(kept))
            fingerprints.extend(kept.select(["id", "identity", "signature"]))
            rows.append(kept.select(["id", *KEPT, "annotations", "target"]))
            measures.append(pd.DataFrame([dict(row) for row in kept["measures"].to_pylist()], dtype=float))
    kept_ = pa.concat_tables(rows) if rows else None
    return (
        _frame(kept_, ["id", *KEPT]).join(pd.concat(measures, ignore_index=True) if rows else pd.DataFrame()),
        _annotations(kept_),
        _frame(kept_, ["id", "target"]).dropna(),
        _frame(pa.concat_tables(rejects) if rejects else None, ["source", "reason"]),
    )


def _refuse_repeated(table: pa.Table, ids: set[bytes]) -> pa.Table:
    """Give those a reason whose id stands in `ids` already, and add the others to it."""
    reasons = table["reason"].to_pylist()
    for i, id_ in enumerate(table["id"].to_pylist()):
        if id_ is not None:
            short = bytes.fromhex(id_)  # a million of these are 60 MB less than as text
            if short in ids:
                reasons[i] = "same content and source as an earlier record"
            ids.add(short)
    return table.set_column(table.column_names.index("reason"), "reason", pa.array(reasons, pa.string()))


def _frame(table: pa.Table | None, columns: list[str]) -> pd.DataFrame:
    """Give columns of text; what is missing in them stays None."""
    frame = pd.DataFrame()
    for name in columns:
        values = [] if table is None else table[name].to_pylist()
        if name in _FEW:  # a million equal labels are one text in memory
            shared: dict[str | None, str | None] = {}
            values = [shared.setdefault(value, value) for value in values]
        frame[name] = pd.Series(values, dtype="str" if name == "id" else object)
    return frame


def _annotations(kept: pa.Table | None) -> pd.DataFrame:
    said = (
        []
        if kept is None
        else [
            (id_, annotator, label)
            for id_, given in zip(kept["id"].to_pylist(), kept["annotations"].to_pylist(), strict=True)
            for annotator, label in sorted(given)
        ]
    )
    return pd.DataFrame(said, columns=["id", "annotator", "label"], dtype=object)


def _to_spread(manifest: pd.DataFrame, targets: pd.DataFrame) -> pd.DataFrame:
    """Give samples that have a target and no label one class in common: splits need them as well."""
    untold = manifest["label"].isna() & manifest["id"].isin(targets["id"])
    return manifest.assign(label=manifest["label"].mask(untold, ""))


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
    for name in ("samples", "descriptors", "fingerprints"):
        keep(out / name, manifest["id"])
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


def _progress(rows: Iterable[_T], doing: str) -> Iterator[_T]:
    console = Console(stderr=True)
    hidden = not console.is_terminal
    yield from track(rows, doing, console=console, transient=True, disable=hidden)


if __name__ == "__main__":
    run(main)
