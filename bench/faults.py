"""Which planted faults are found, in real data, by the thresholds of params.yaml.

    python -m bench.data faults --data DATASETS [--size 600] [--planted 20]

Lays out spoken digits, pictures of clothes and news, each with a few faults of every kind among many
healthy samples; lets ingest and audit run over them; and prints, for each kind, how many were planted and
found, and how many of the samples that nobody touched were flagged as well.
"""

import argparse
import csv
import gzip
import json
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import yaml
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict

from bench import planting
from bench.planting import Random
from winnow.data import audit, ingest, modality, store
from winnow.data.judging import guards
from winnow.data.judging.slices import Slicing
from winnow.data.partition import Splits
from winnow.data.sources import tables
from winnow.data.stage import BadInput

_ROOT = Path(__file__).parent.parent
_HEAD = ("data", "fault", "planted", "found", "flagged of untouched", "status")
_PER_GROUP = 10  # samples of an artificial group


class Line(NamedTuple):
    """A line of the table; what is not counted is empty."""

    data: str
    fault: str
    planted: int
    found: int
    alarms: str

    def __str__(self) -> str:
        status = "found" if self.found == self.planted else "partly" if self.found else "missed"
        return f"| {self.data} | {self.fault} | {self.planted} | {self.found} | {self.alarms} | {status} |"


@dataclass
class Sample:
    """A file to be, and what was done to it.

    Attributes:
        raw: content.
        suffix: ending of its name.
        label: its class.
        split: train, validation or test.
        group: what should stay in one split.
        fault: name of what was planted, "" for nothing.
        twin: number of the sample that it is a copy of.
    """

    raw: bytes
    suffix: str
    label: str
    split: str
    group: str
    fault: str = ""
    twin: int | None = None


@dataclass
class Set:
    """Samples of one modality, and the ways to break and to copy them."""

    name: str
    samples: list[Sample]
    faults: list[planting.Fault]
    touched: set[int] = field(default_factory=set)

    def healthy(self, number: int, random: Random) -> list[int]:
        """Draw samples that nobody touched; they are touched now."""
        rest = [i for i, s in enumerate(self.samples) if i not in self.touched and s.twin is None]
        drawn = random.choice(rest, number, replace=False).tolist()
        self.touched |= set(drawn)
        return drawn


def main(argv: Sequence[str]) -> None:
    """Plant, run, and print a table in Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of fsdd, FashionMNIST and ag_news")
    parser.add_argument("--size", type=int, default=600, help="healthy samples of each modality")
    parser.add_argument("--planted", type=int, default=12, help="samples with each fault")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args(argv)
    params = yaml.safe_load((_ROOT / "params.yaml").read_text(encoding="utf-8"))
    print("|" + "|".join(f" {name} " for name in _HEAD) + "|\n" + "|---" * len(_HEAD) + "|")
    for read in (_speech, _vision, _text):
        random = np.random.default_rng(asked.seed)
        one = read(asked.data, asked.size, random)
        with tempfile.TemporaryDirectory() as folder:
            for line in _run(one, params[one.name], Path(folder), asked.planted, random):
                print(line, flush=True)


def _run(one: Set, section: dict[str, Any], root: Path, planted: int, random: Random) -> Iterator[Line]:
    copies = _plant(one, planted, random)
    kind = modality.build(section["modality"])
    manifest, rejects, found = _stages(kind, one, section, root)
    place = {f"samples/{i:05}{s.suffix}": i for i, s in enumerate(one.samples)}
    row_of = {place[source]: row for row, source in enumerate(manifest["source"])}
    rejected = {place[source] for source in rejects["source"]}
    clean = [i for i in range(len(one.samples)) if i not in one.touched]
    flags, summary = found

    for fault in one.faults:
        here = [i for i, s in enumerate(one.samples) if s.fault == fault.name]
        if fault.check == "reject":
            caught, alarms = len(rejected & set(here)), len(rejected & set(clean))
        else:
            flag = flags[f"is_{fault.check}"].to_numpy()
            caught = sum(bool(flag[row_of[i]]) for i in here if i in row_of)
            alarms = sum(bool(flag[row_of[i]]) for i in clean if i in row_of)
        yield Line(one.name, fault.name, len(here), caught, f"{alarms} of {len(clean)}")

    for name, pairs in copies.items():
        column = "exact_duplicate_set" if pairs[0].exact else "near_duplicate_set"
        sets = flags[column].to_numpy()
        together = [sets[row_of[p.copy]] >= 0 and sets[row_of[p.copy]] == sets[row_of[p.of]] for p in pairs]
        alarms = sum(sets[row_of[i]] >= 0 for i in clean)
        yield Line(one.name, name, len(pairs), sum(together), f"{alarms} of {len(clean)}")
    yield from _leaks(one, copies, summary["leakage"], manifest)
    yield from _refusals(one.name, section, root, manifest)


class Pair(NamedTuple):
    """A copy, what it is a copy of, and how."""

    copy: int
    of: int
    exact: bool
    across: bool
    conflict: bool


def _plant(one: Set, planted: int, random: Random) -> dict[str, list[Pair]]:
    for fault in one.faults:
        for i in one.healthy(planted, random):
            sample = one.samples[i]
            sample.raw, sample.fault = fault.plant(sample.raw, random), fault.name
    copies: dict[str, list[Pair]] = {}
    labels = sorted({s.label for s in one.samples})
    for way in planting.COPIES[one.name]:
        places = (
            ((False, False), (True, False), (True, True)) if way.exact else ((False, False), (True, False))
        )
        for across, conflict in places:
            where = "across splits" if across else "within a split"
            name = f"{way.name}, {where}" + (", with another label" if conflict else "")
            copies[name] = []
            for i in one.healthy(planted, random):
                of = one.samples[i]
                split = ("test" if of.split == "train" else "train") if across else of.split
                label = labels[(labels.index(of.label) + 1) % len(labels)] if conflict else of.label
                new = Sample(way.make(of.raw, random), way.suffix, label, split, "", name, i)
                copies[name].append(Pair(len(one.samples), i, way.exact, across, conflict))
                one.touched.add(len(one.samples))
                one.samples.append(new)
    return copies


def _stages(
    kind: modality.Modality, one: Set, section: dict[str, Any], root: Path
) -> tuple[pd.DataFrame, pd.DataFrame, tuple[pd.DataFrame, dict[str, Any]]]:
    """Write the raw data; let ingest and audit run."""
    raw, out = root / "raw", root / "ingest"
    (raw / "samples").mkdir(parents=True)
    out.mkdir()
    lines = []
    for i, s in enumerate(one.samples):
        (raw / f"samples/{i:05}{s.suffix}").write_bytes(s.raw)
        lines.append(
            {"file": f"samples/{i:05}{s.suffix}", "label": s.label, "split": s.split, "group": s.group}
        )
    (raw / "table.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    source = tables.Table(table="table.jsonl", path="file", label="label", split="split", group="group")
    ingest.main(
        kind, raw, out, source=source, splits=Splits(0.0, 0.0), min_class_size=1, max_rejects=0.9,
        label_noise=0.0, seed=0, engine="local", workers=1,
    )  # fmt: skip
    audited = _audit(out, root / "audit", section)
    return store.read_table(out / "manifest.parquet"), store.read_table(out / "rejects.parquet"), audited


def _audit(data: Path, out: Path, section: dict[str, Any]) -> tuple[pd.DataFrame, dict[str, Any]]:
    out.mkdir()
    numbers = dict(section["audit"])
    numbers["judge"] = audit.Judge(**numbers["judge"])
    numbers["slicing"] = Slicing(**numbers["slicing"])
    numbers["checks"] = {name: audit.Check(**check) for name, check in numbers["checks"].items()}
    audit.main("any", data, data, data / "descriptors", out, **numbers)
    return store.read_table(out / "issues.parquet"), store.read_json(out / "summary.json")


def _leaks(
    one: Set, copies: dict[str, list[Pair]], leakage: dict[str, int], manifest: pd.DataFrame
) -> Iterator[Line]:
    """Compare what the audit counts of leaks with what was planted; nothing untouched leaks by itself."""
    pairs = [pair for of_way in copies.values() for pair in of_way]
    across = 2 * sum(p.exact and p.across for p in pairs)
    conflicts = 2 * sum(p.conflict for p in pairs)
    torn = manifest.groupby("group")["split"].nunique() > 1
    groups = int(manifest["group"].map(torn).fillna(False).astype(bool).sum())
    for name, planted, key in (
        ("samples with equals in another split", across, "exact_across_splits"),
        ("samples whose equals have another label", conflicts, "conflicting_labels"),
        ("samples of groups in two splits", groups, "groups_across_splits"),
    ):
        if planted:
            yield Line(
                one.name, name, planted, min(planted, leakage[key]), f"{leakage[key] - planted} too many"
            )


def _refusals(name: str, section: dict[str, Any], root: Path, manifest: pd.DataFrame) -> Iterator[Line]:
    """Try what must stop a stage."""
    vectors = store.read_vectors(root / "ingest" / "descriptors", manifest["id"])
    names, labels = np.unique(manifest["label"].to_numpy(str), return_inverse=True)
    classes = names.tolist()
    model = LogisticRegression(max_iter=300)
    seen = model.fit(vectors, labels).predict_proba(vectors)
    unseen = cross_val_predict(model, vectors, labels, cv=5, method="predict_proba")
    turned = np.roll(np.arange(len(classes)), 1)
    small = root / "small"
    _few(root / "ingest", small, section["audit"]["judge"]["neighbours"])
    tried: tuple[tuple[str, Callable[[], object], Callable[[], object] | None], ...] = (
        ("columns in another order", lambda: guards.refuse_other_order(labels, unseen[:, turned], classes),
         lambda: guards.refuse_other_order(labels, unseen, classes)),
        ("one class too few", lambda: guards.refuse_other_order(labels, unseen[:, 1:], classes), None),
        ("probabilities of what was learned", lambda: guards.refuse_in_sample(seen, seen),
         lambda: guards.refuse_in_sample(unseen, seen)),
        ("no more samples than neighbours", lambda: _audit(small, root / "small-audit", section), None),
    )  # fmt: skip
    for fault, wrong, right in tried:
        refused = "" if right is None else f"{int(_refused(right))} of 1"
        yield Line(name, f"{fault}: refused", 1, int(_refused(wrong)), refused)


def _refused(act: Callable[[], object]) -> bool:
    try:
        act()
    except (ValueError, BadInput):
        return True
    return False


def _few(whole: Path, out: Path, number: int) -> None:
    """Copy the first samples of an ingest."""
    out.mkdir()
    manifest = store.read_table(whole / "manifest.parquet")[:number]
    store.write_table(out / "manifest.parquet", manifest)
    store.write_table(out / "annotations.parquet", store.read_table(whole / "annotations.parquet")[:0])
    for name in ("kind.json", "samples", "descriptors", "fingerprints"):
        (out / name).symlink_to(whole / name)


def _speech(data: Path, size: int, random: Random) -> Set:
    splits = {"nicolas": "test", "yweweler": "validation"}
    with tarfile.open(data / "fsdd" / "recordings.tar") as tar:
        files = sorted((m for m in tar if m.name.endswith(".wav")), key=lambda m: m.name)
        drawn = [files[i] for i in random.choice(len(files), size, replace=False)]
        samples = []
        for member in drawn:
            digit, speaker, _ = Path(member.name).stem.split("_")
            content = tar.extractfile(member)
            assert content is not None
            samples.append(Sample(content.read(), ".wav", digit, splits.get(speaker, "train"), speaker))
    return Set("speech", samples, planting.SPEECH)


def _vision(data: Path, size: int, random: Random) -> Set:
    raw = data / "FashionMNIST" / "raw"
    pixels, labels = (
        np.frombuffer(gzip.decompress((raw / f"t10k-{name}.gz").read_bytes()), np.uint8, offset=offset)
        for name, offset in (("images-idx3-ubyte", 16), ("labels-idx1-ubyte", 8))
    )
    drawn = random.choice(len(labels), size, replace=False)
    raws = [planting.picture(image) for image in pixels.reshape(-1, 28, 28)[drawn]]
    return Set("vision", _grouped(raws, ".png", labels[drawn].astype(str).tolist()), planting.VISION)


def _text(data: Path, size: int, random: Random) -> Set:
    with gzip.open(data / "ag_news" / "train_part.csv.gz", "rt", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    drawn = [rows[i] for i in random.choice(len(rows), size, replace=False)]
    raws = [row["text"].encode() for row in drawn]
    return Set("text", _grouped(raws, ".txt", [row["label"] for row in drawn]), planting.TEXT)


def _grouped(raws: list[bytes], suffix: str, labels: list[str]) -> list[Sample]:
    """Make each run of ten a group, two of five for training; tear every twentieth apart."""
    samples = []
    for i, (raw, label) in enumerate(zip(raws, labels, strict=True)):
        group = i // _PER_GROUP
        split = ("validation", "test", "train", "train", "test")[group % 5]
        if group % 20 == 0 and i % _PER_GROUP == 0:
            split = "test"
        samples.append(Sample(raw, suffix, label, split, f"group {group}"))
    return samples


if __name__ == "__main__":
    main(sys.argv[1:])
