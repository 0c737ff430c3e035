"""Three real sets, each split in a folder of its own, with a teacher of true labels."""

import csv
import json
import multiprocessing
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from torch import Tensor

from examples import real
from examples.real import PROJECT, laid_over
from winnow.compress import runtimes
from winnow.data import ingest, stage, store
from winnow.data.batches import stack
from winnow.data.modality import build
from winnow.ssl import finetune, pretrain
from winnow.ssl import model as models

TITLES = {"digits": "Free Spoken Digits", "clothes": "Fashion-MNIST", "news": "AG News"}
HEARD = 3  # recordings of each digit and speaker that validate: those of the lowest numbers


class Field(NamedTuple):
    """A dataset with its split.

    Attributes:
        title: that it goes by in messages.
        folder: holds `params.yaml` and `out`, as a workspace does.
        modality: name of its section.
        raw: what `ingest` reads.
    """

    title: str
    folder: Path
    modality: str
    raw: Path

    @property
    def out(self) -> Path:
        return self.folder / "out" / self.modality

    @property
    def kind(self) -> dict[str, Any]:
        """What the samples are, as params.yaml tells it."""
        content = yaml.safe_load((self.folder / "params.yaml").read_text(encoding="utf-8"))
        return content[self.modality]["modality"]

    def test(self) -> tuple[Tensor, np.ndarray]:
        """Read the test split and its labels."""
        ingested = self.out / "ingest"
        manifest = store.read_table(ingested / "manifest.parquet")
        rows = manifest[manifest["split"] == "test"]
        samples = stack(build(self.kind), ingested, rows, store.read_classes(ingested))
        return samples.x, samples.label.numpy()


def changes() -> dict[str, Any]:
    """Read what differs from params.yaml, and the arms."""
    return yaml.safe_load((Path(__file__).parent / "arms.yaml").read_text(encoding="utf-8"))


def numbers(modality: str) -> dict[str, Any]:
    """Read a section of params.yaml."""
    return yaml.safe_load((PROJECT / "params.yaml").read_text(encoding="utf-8"))[modality]


def fields(name: str, datasets: Path, workspace: Path) -> Iterator[Field]:
    """Lay a dataset out, each of its splits in a folder."""
    raw = workspace / "sources" / (f"{name}.csv" if name == "news" else name)
    modality = changes()[name]["modality"]
    if not raw.exists():
        partial = raw.with_name(f".{raw.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.parent.mkdir(parents=True, exist_ok=True)
        if name == "digits":
            real.speech(datasets / "fsdd", partial)
        elif name == "clothes":
            real.vision(datasets / "FashionMNIST" / "raw", partial, {"train": 60_000, "test": 10_000})
        else:
            real.text(datasets / "ag_news", partial)
        partial.rename(raw)
    if name != "digits":
        yield Field(name, workspace / name, modality, raw)
        return
    with (raw / "labels.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for speaker in sorted({row["speaker"] for row in rows}):
        folder = workspace / f"{name}-{speaker}"
        split = folder / "source"
        if not split.exists():
            shutil.copytree(raw, split, copy_function=os.link, ignore=shutil.ignore_patterns("*.csv"))
            labels = (
                (row["file"], row["label"], part(row["file"], row["speaker"] == speaker)) for row in rows
            )
            real.write_csv(split / "labels.csv", ("file", "label", "split"), labels)
        yield Field(f"{name}, {speaker}", folder, modality, split)


def part(file: str, unheard: bool) -> str:
    """Give the split of a recording `…/3_george_12.wav`, the speaker of which is in the test split or not."""
    return "test" if unheard else "validation" if int(Path(file).stem.split("_")[2]) < HEARD else "train"


def run(main: Callable[..., Any], folder: Path, *words: str) -> None:
    """Run a stage in a folder, in a process of its own that has all modules already.

    Raises:
        SystemExit: with the end of what it said, if it fails.
    """
    name = main.__module__.rpartition(".")[2]
    said = folder / f"{name}.log"

    def child() -> None:
        os.chdir(folder)
        sys.argv = [main.__module__, *words]
        with said.open("w", encoding="utf-8") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        stage.run(main)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join()
    if process.exitcode:
        sys.exit(f"{name} in {folder}:\n{said.read_text(encoding='utf-8')[-3000:]}")


def say(*words: object) -> None:
    """Tell how far it is, beside the tables."""
    print(*words, file=sys.stderr, flush=True)


def teach(name: str, field: Field) -> None:
    """Make the teacher of a dataset, unless it is there."""
    if (field.out / "finetune").exists():
        say(f"{field.title}: its teacher is there, and kept")
        return
    say(f"{field.title}: teaching")
    own = {key: value for key, value in changes()[name].items() if key not in {"modality", "arms"}}
    field.folder.mkdir(parents=True, exist_ok=True)
    section = yaml.safe_dump({field.modality: laid_over(numbers(field.modality), own)})
    (field.folder / "params.yaml").write_text(section, encoding="utf-8")
    ingested, pretrained, tuned = (
        f"out/{field.modality}/{folder}" for folder in ("ingest", "pretrain", "finetune")
    )
    run(ingest.main, field.folder, field.modality, str(field.raw.resolve()), ingested)
    run(pretrain.main, field.folder, field.modality, ingested, ingested, pretrained)
    run(finetune.main, field.folder, field.modality, ingested, ingested, pretrained, tuned)


def taught(field: Field) -> np.ndarray:
    """Say of each test sample whether the teacher tells it right."""
    told = field.folder / "teacher.json"
    if not told.exists():
        samples, label = field.test()
        model = runtimes.TorchRuntime(models.load_classifier(field.out / "finetune"))
        right = runtimes.logits(model, samples, 256).argmax(1) == label
        told.write_text(json.dumps(right.tolist()), encoding="utf-8")
    return np.array(json.loads(told.read_text(encoding="utf-8")), bool)
