"""Lay out real datasets the way users have theirs, in a workspace with the project's pipeline.

`python examples/real.py DATASETS WORKSPACE`; `make real DATA=DATASETS` does it and runs the pipeline. Speech
becomes a folder and a table of labels and speakers, vision one folder per split and class, text one CSV.
What reads them stands in examples/real.yaml, which is laid over params.yaml.
"""

import csv
import gzip
import shutil
import sys
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

PROJECT = Path(__file__).resolve().parents[1]
PIPELINE = ("data", "ssl", "compress", "reviews", "accepted", ".dvc/config", "dvc.yaml")

CLOTHES = (
    *("t-shirt", "trouser", "pullover", "dress", "coat"),
    *("sandal", "shirt", "sneaker", "bag", "ankle-boot"),
)
TOPICS = ("world", "sports", "business", "technology")
IMAGES = {"train": 18_000, "test": 2_000}  # of 60,000 and 10,000


def main(datasets: Path, workspace: Path) -> None:
    """Write `sources/`, once, and beside it the pipeline and its numbers, anew."""
    sources = workspace / "sources"
    if not sources.exists():
        partial = workspace / ".sources.partial"
        shutil.rmtree(partial, ignore_errors=True)
        speech(datasets / "fsdd", partial / "speech")
        vision(datasets / "FashionMNIST" / "raw", partial / "vision", IMAGES)
        text(datasets / "ag_news", partial / "text.csv")
        partial.rename(sources)
    for name in PIPELINE:
        source, target = PROJECT / name, workspace / name
        if source.is_dir():
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
    numbers, changes = (
        yaml.safe_load(path.read_text(encoding="utf-8"))
        for path in (PROJECT / "params.yaml", PROJECT / "examples" / "real.yaml")
    )
    merged = yaml.safe_dump(laid_over(numbers, changes), sort_keys=False)
    (workspace / "params.yaml").write_text(merged, encoding="utf-8")


def laid_over(numbers: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Replace what `changes` names; a source is replaced whole, since each has its own arguments."""
    merged = dict(numbers)
    for key, change in changes.items():
        nested = isinstance(change, dict) and isinstance(merged.get(key), dict) and key != "source"
        merged[key] = laid_over(merged[key], change) if nested else change
    return merged


def speech(fsdd: Path, out: Path) -> None:
    """Free Spoken Digits, `7_theo_12.wav`; no split, so that winnow holds whole speakers out."""
    out.mkdir(parents=True)
    with tarfile.open(fsdd / "recordings.tar") as tar:
        tar.extractall(out, filter="data")
    files = sorted(path.relative_to(out) for path in out.rglob("*.wav"))
    named = ((file.as_posix(), *file.stem.split("_")[:2]) for file in files)
    write_csv(out / "labels.csv", ("file", "label", "speaker"), named)


def vision(raw: Path, out: Path, number: Mapping[str, int]) -> None:
    """Fashion-MNIST, so many images of each split, as `train/coat/00042.png`."""
    for split, prefix in (("train", "train"), ("test", "t10k")):
        images = idx(raw / f"{prefix}-images-idx3-ubyte.gz", header=16).reshape(-1, 28, 28)
        labels = idx(raw / f"{prefix}-labels-idx1-ubyte.gz", header=8)
        for name in CLOTHES:
            (out / split / name).mkdir(parents=True)
        for place in range(number[split]):
            path = out / split / CLOTHES[labels[place]] / f"{place:05}.png"
            Image.fromarray(images[place]).save(path)


def text(ag_news: Path, out: Path) -> None:
    """AG News, with the train and test splits that it came with."""
    rows = []
    with gzip.open(ag_news / "train_part.csv.gz", "rt", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            rows.append((row["text"], TOPICS[int(row["label"]) - 1], "train"))
    with gzip.open(ag_news / "test_official.csv.gz", "rt", encoding="utf-8", newline="") as file:
        for label, title, description in csv.reader(file):
            rows.append((f"{title} {description}", TOPICS[int(label) - 1], "test"))
    write_csv(out, ("text", "label", "split"), rows)


def idx(path: Path, header: int) -> np.ndarray:
    """Read a file of unsigned bytes in MNIST's format."""
    return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=header)


def write_csv(path: Path, header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    """Write a table."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python examples/real.py DATASETS WORKSPACE")
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
    except FileNotFoundError as error:
        sys.exit(f"{error.filename} is missing: DATASETS needs fsdd/, FashionMNIST/raw/, ag_news/")
