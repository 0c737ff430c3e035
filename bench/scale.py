"""How time and memory of ingest and audit grow with the number of samples.

    python -m bench.data scale --modality text --sizes 10000,100000,1000000 --data DATASETS

Writes texts of 200 bytes, put together from phrases of AG News, or images of 32×32 pixels, moved
Fashion-MNIST, with repeated and slightly changed samples among them; runs each stage in a fresh process;
prints a table.
"""

import argparse
import contextlib
import csv
import gzip
import io
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from PIL import Image

_ROOT = Path(__file__).parent.parent
_REPEATED, _CHANGED = 0.01, 0.02  # shares of samples that are, or resemble, an earlier one
_EARLIER = 1000  # samples back that these may be
_BYTES = 200  # of a text
_SIDE = 32  # of an image [pixels]


class Run(NamedTuple):
    """What a stage took.

    Attributes:
        seconds: on the wall.
        cpu_seconds: of all processors together; a busy machine does not change it much.
        peak_bytes: most memory that its processes had together, shared pages counted once.
    """

    seconds: float
    cpu_seconds: float
    peak_bytes: int


def main(argv: Sequence[str]) -> None:
    """Measure, and print a table in Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder that holds ag_news and FashionMNIST")
    parser.add_argument("--modality", choices=["text", "vision"], default="text")
    parser.add_argument("--sizes", default="10000,100000")
    parser.add_argument("--stages", default="ingest,audit")
    parser.add_argument("--engine", choices=["local", "ray"], default="local")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--work", type=Path, help="folder to work in and to leave; by default a passing one")
    given = parser.parse_args(argv)
    print("| samples | stage | engine | workers | seconds | CPU s | CPU ms a sample | peak MB |")
    print("|---|---|---|---|---|---|---|---|")
    for size in map(int, given.sizes.split(",")):
        with contextlib.ExitStack() as stack:
            work = given.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
            home = work / f"{given.modality}-{size}"
            raw = write(given.modality, given.data, home, size)
            settings(home, given.modality, given.engine, given.workers)
            for stage in given.stages.split(","):
                run = measure(command(stage, given.modality, raw), home)
                each = 1000 * run.cpu_seconds / size
                print(
                    f"| {size:,} | {stage} | {given.engine} | {given.workers} | {run.seconds:.1f} "
                    f"| {run.cpu_seconds:.1f} | {each:.3f} | {run.peak_bytes / 1e6:.0f} |",
                    flush=True,
                )


def write(modality: str, data: Path, home: Path, size: int) -> Path:
    """Write raw data, unless it is there; memory holds a few samples of it."""
    raw = home / ("texts.jsonl" if modality == "text" else "images")
    if raw.exists():
        return raw
    home.mkdir(parents=True, exist_ok=True)
    if modality == "text":
        with raw.open("w", encoding="utf-8") as file:
            for label, text in _texts(data, size):
                file.write(json.dumps({"text": text, "label": label}) + "\n")
        return raw
    for number, (label, image) in enumerate(_images(data, size)):
        path = raw / label / f"{number // 1000:04}" / f"{number:07}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image)
    return raw


def _texts(data: Path, size: int) -> Iterator[tuple[str, str]]:
    random = np.random.default_rng(0)
    topics: dict[str, list[list[str]]] = {}
    with gzip.open(data / "ag_news/train_part.csv.gz", "rt", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            topics.setdefault(row["label"], []).append(row["text"].split())
    everything = [words for topic in topics.values() for words in topic]
    names = sorted(topics)
    earlier: deque[tuple[str, str]] = deque(maxlen=_EARLIER)
    for _ in range(size):
        kind = random.random()
        if kind < _REPEATED + _CHANGED and earlier:
            label, text = earlier[int(random.integers(len(earlier)))]
            if kind > _REPEATED:
                words = text.split()
                words[int(random.integers(len(words)))] = "something"
                text = " ".join(words)
        else:
            label, phrases = names[int(random.integers(len(names)))], []
            while sum(map(len, phrases)) < _BYTES:
                texts = topics[label] if random.random() < 0.8 else everything
                words = texts[int(random.integers(len(texts)))]
                length = int(random.integers(5, 13))
                start = int(random.integers(max(1, len(words) - length)))
                phrases.append(" ".join(words[start : start + length]))
            text = " ".join(phrases).encode()[:_BYTES].decode(errors="ignore")
        earlier.append((label, text))
        yield label, text


def _images(data: Path, size: int) -> Iterator[tuple[str, bytes]]:
    random = np.random.default_rng(0)
    folder = data / "FashionMNIST/raw"
    pixels = gzip.decompress((folder / "train-images-idx3-ubyte.gz").read_bytes())[16:]
    labels = gzip.decompress((folder / "train-labels-idx1-ubyte.gz").read_bytes())[8:]
    images = np.frombuffer(pixels, np.uint8).reshape(-1, 28, 28)
    last = ("", b"")
    for _ in range(size):
        if random.random() >= _REPEATED or not last[1]:
            chosen = int(random.integers(len(images)))
            canvas = np.zeros((_SIDE, _SIDE), np.int16)
            down, right = random.integers(0, _SIDE - 28 + 1, 2)
            canvas[down : down + 28, right : right + 28] = images[chosen]
            canvas += random.integers(-8, 9, canvas.shape, dtype=np.int16)
            file = io.BytesIO()
            Image.fromarray(canvas.clip(0, 255).astype(np.uint8)).save(file, "PNG", compress_level=1)
            last = (f"class-{labels[chosen]}", file.getvalue())
        yield last


def settings(home: Path, modality: str, engine: str, workers: int) -> None:
    """Write the params.yaml of the run: the project's, reading what was written."""
    params: dict[str, Any] = yaml.safe_load((_ROOT / "params.yaml").read_text(encoding="utf-8"))
    section = params[modality]
    if modality == "text":
        source = {
            "class_path": "winnow.data.sources.tables.Table",
            "init_args": {"text": "text", "label": "label"},
        }
    else:
        source = {"class_path": "winnow.data.sources.files.Folder", "init_args": {"labels": "folders"}}
        section["modality"]["init_args"] |= {"size": _SIDE, "patch": 4, "channels": 1}
    section["ingest"] |= {"source": source, "engine": engine, "workers": workers}
    section["audit"] |= {"engine": engine, "workers": workers}
    (home / "params.yaml").write_text(yaml.safe_dump({modality: section}), encoding="utf-8")


def command(stage: str, modality: str, raw: Path) -> list[str]:
    """Say how a stage is started in the folder of its run."""
    inputs = {"ingest": [raw.name], "audit": ["out/ingest", "out/ingest", "out/ingest/descriptors"]}[stage]
    return [sys.executable, "-m", f"winnow.data.{stage}", modality, *inputs, f"out/{stage}"]


def measure(words: list[str], folder: Path) -> Run:
    """Run a command, and watch the memory of it and of all that it starts.

    Raises:
        RuntimeError: if it fails.
    """
    begin, worked = time.perf_counter(), _worked()
    peak = 0
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(words, cwd=folder, stdout=log, stderr=subprocess.STDOUT)
        while process.poll() is None:
            peak = max(peak, sum(map(_memory, _family(process.pid))))
            time.sleep(0.2)
    seconds = time.perf_counter() - begin
    if process.returncode:
        raise RuntimeError(f"{' '.join(words)} failed:\n{(folder / 'log.txt').read_text()[-3000:]}")
    return Run(seconds, _worked() - worked, peak)


def _worked() -> float:
    """Give the processor time of all that this process started and that has ended [s]."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _family(first: int) -> set[int]:
    """Find a process and all that descend from it."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended since
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    family, new = {first}, {first}
    while new := {child for child, parent in parents.items() if parent in new} - family:
        family |= new
    return family


def _memory(process: int) -> int:
    """Give the memory of a process [bytes], its share of what it shares with others."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


if __name__ == "__main__":
    main(sys.argv[1:])
