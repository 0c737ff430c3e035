"""How small a classifier of real data gets: accuracy, bytes, and dense ones of as many bytes beside it.

`python -m bench.compress DATASETS WORKSPACE [--sets digits clothes news] [--arms …] [--seeds 0 1 2]`
    pretrains and fine-tunes teachers on true labels, once, and compresses them in all the ways (arms) that
    bench/compress.yaml tells, by the pipeline's own stages; prints Markdown tables
`… --time 50 --page FILE`
    also times the first seed's models, one thread, so many runs in turns, and draws accuracy against bytes
    and milliseconds

Sets: Free Spoken Digits, of which each of the six speakers is left out once (3,000 test samples in all);
Fashion-MNIST (10,000); AG News (7,600). A seed is that of batches, variants and dropout; the teacher is the
same. The interval of what is lost is a paired bootstrap over test samples, each of which counts with its mean
over seeds. Answers are those of the ONNX file in ONNX Runtime; bytes are those of the `.winnow` bundle. What
WORKSPACE holds of a run with the same settings is not run again.
"""

import argparse
import csv
import json
import multiprocessing
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml

from bench.variants import seeded
from examples import real
from examples.real import PROJECT, laid_over
from winnow.compress import (
    bundle,
    control,
    distill,
    evaluate,
    export,
    integer,
    ledger,
    prune,
    quantize,
    runtimes,
    variants,
)
from winnow.compress.engine.classifier import EngineClassifier
from winnow.data import ingest, stage, store
from winnow.data.batches import stack
from winnow.data.intervals import paired_difference, verdict
from winnow.data.modality import build
from winnow.ssl import finetune, pretrain
from winnow.ssl import model as models

TITLES = {"digits": "Free Spoken Digits", "clothes": "Fashion-MNIST", "news": "AG News"}
RATIOS = ("counted", "packed", "compressed", "whole_file")
MAINS = {
    "distill": distill.main,
    "prune": prune.main,
    "quantize": quantize.main,
    "control": control.main,
}
HEARD = 3  # recordings of each digit and speaker that validate: those of the lowest numbers


class Field(NamedTuple):
    """A dataset with its split, in a folder of its own.

    Attributes:
        folder: holds `params.yaml` and `out`, as a workspace does.
        modality: name of its section.
    """

    folder: Path
    modality: str

    @property
    def out(self) -> Path:
        return self.folder / "out" / self.modality

    @property
    def section(self) -> dict[str, Any]:
        return yaml.safe_load((self.folder / "params.yaml").read_text(encoding="utf-8"))[self.modality]


class Found(NamedTuple):
    """What a run came to.

    Attributes:
        right: whether each test sample was told right.
        ratios: of the teacher's bytes; see `winnow.compress.ledger.ratios`.
        size_bytes: of the bundle.
    """

    right: np.ndarray
    ratios: dict[str, float]
    size_bytes: int


def run(main: Callable[..., Any], folder: Path, *words: str) -> None:
    """Run a stage in a folder, in a process of its own that has all modules already."""

    def child() -> None:
        os.chdir(folder)
        sys.argv = [main.__module__, *words]
        log = (folder / f"{main.__module__.rpartition('.')[2]}.log").open("w", encoding="utf-8")
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        stage.run(main)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join()
    if process.exitcode:
        name = main.__module__.rpartition(".")[2]
        sys.exit(f"{name} in {folder}:\n{(folder / f'{name}.log').read_text(encoding='utf-8')[-3000:]}")


def fields(name: str, datasets: Path, workspace: Path) -> Iterator[tuple[str, Field, Path]]:
    """Lay a dataset out; give each split's name, its folder, and its raw data."""
    sources = workspace / "sources"
    raw = sources / (f"{name}.csv" if name == "news" else name)
    modality = changes()[name]["modality"]
    if not raw.exists():
        partial = sources / f".{raw.name}.partial"
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
        yield name, Field(workspace / name, modality), raw
        return
    with (raw / "labels.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for speaker in sorted({row["speaker"] for row in rows}):
        folder = workspace / f"{name}-{speaker}"
        split = folder / "source"
        if not split.exists():
            shutil.copytree(raw, split, copy_function=os.link, ignore=shutil.ignore_patterns("*.csv"))
            numbers = (int(Path(row["file"]).stem.split("_")[2]) for row in rows)
            real.write_csv(
                split / "labels.csv",
                ("file", "label", "split"),
                (
                    (row["file"], row["label"], part(row["speaker"] == speaker, number))
                    for row, number in zip(rows, numbers, strict=True)
                ),
            )
        yield f"{name}, {speaker}", Field(folder, modality), split


def part(unheard: bool, number: int) -> str:
    """Give the split of a recording."""
    return "test" if unheard else "validation" if number < HEARD else "train"


def changes() -> dict[str, Any]:
    """Read what differs from params.yaml, and the arms."""
    return yaml.safe_load((PROJECT / "bench" / "compress.yaml").read_text(encoding="utf-8"))


def teach(title: str, name: str, field: Field, raw: Path) -> None:
    """Make the teacher of a dataset, unless it is there."""
    if (field.out / "finetune").exists():
        return
    print(f"{title}: teaching", file=sys.stderr, flush=True)
    numbers = yaml.safe_load((PROJECT / "params.yaml").read_text(encoding="utf-8"))[field.modality]
    own = {key: value for key, value in changes()[name].items() if key not in {"modality", "arms"}}
    field.folder.mkdir(parents=True, exist_ok=True)
    section = yaml.safe_dump({field.modality: laid_over(numbers, own)})
    (field.folder / "params.yaml").write_text(section, encoding="utf-8")
    ingested, pretrained, tuned = (
        f"out/{field.modality}/{folder}" for folder in ("ingest", "pretrain", "finetune")
    )
    run(ingest.main, field.folder, field.modality, str(raw.resolve()), ingested)
    run(pretrain.main, field.folder, field.modality, ingested, ingested, pretrained)
    run(finetune.main, field.folder, field.modality, ingested, ingested, pretrained, tuned)


def steps(arm: dict[str, Any]) -> int:
    """Count the steps of an arm that names them."""
    return sum(section["trainer"]["max_steps"] for section in arm.values())


def compress(title: str, field: Field, name: str, arms: dict[str, Any], seed: int) -> Found:
    """Compress a teacher in one way, unless it is done already, and measure what comes out."""
    numbers = yaml.safe_load((PROJECT / "params.yaml").read_text(encoding="utf-8"))[field.modality]
    arm = dict(arms[name])
    rival = arm.pop("of", None)
    section = {key: laid_over(numbers[key], arm[key]) for key in arm}
    if rival is not None:
        most = steps(arms[rival])
        section["control"]["trainer"] |= {"max_steps": most, "val_check_interval": most}
    section = {"modality": field.section["modality"], **seeded(section, seed)}
    folder = field.folder / "runs" / f"{name} {seed}"
    told, settings = folder / "found.json", json.dumps([section, rival], sort_keys=True)
    if told.exists():
        held = json.loads(told.read_text(encoding="utf-8"))
        if held["settings"] == settings:
            return Found(np.array(held["right"], bool), held["ratios"], held["size_bytes"])
    shutil.rmtree(folder, ignore_errors=True)
    out = folder / "out" / field.modality
    out.mkdir(parents=True)
    (folder / "params.yaml").write_text(yaml.safe_dump({field.modality: section}), encoding="utf-8")
    for origin in ("ingest", "finetune"):
        (out / origin).symlink_to((field.out / origin).resolve())
    began = time.perf_counter()
    last = "finetune"
    if rival is not None:
        (out / "quantize").symlink_to(
            (field.folder / "runs" / f"{rival} {seed}" / "out" / field.modality / "quantize").resolve()
        )
        last = "quantize"
    for stage_of_arm in arm:
        main = MAINS[stage_of_arm]
        words = ["ingest", "ingest", "finetune", *([] if main is distill.main else [last]), stage_of_arm]
        run(main, folder, field.modality, *(f"out/{field.modality}/{word}" for word in words))
        last = stage_of_arm
    found = measure(field, out, out / last)
    seconds = round(time.perf_counter() - began, 1)
    content = {"right": found.right.tolist(), "ratios": found.ratios, "size_bytes": found.size_bytes}
    told.write_text(json.dumps({"settings": settings, "seconds": seconds, **content}), encoding="utf-8")
    shutil.rmtree(folder / "logs", ignore_errors=True)
    print(
        f"{title}: {name}, {seed}: {100 * found.right.mean():.2f} %, {found.size_bytes} bytes, {seconds} s",
        file=sys.stderr,
        flush=True,
    )
    return found


def measure(field: Field, out: Path, int8: Path) -> Found:
    """Ask the int8 model of the test split, and weigh it against the teacher."""
    samples, label = test(field)
    file = int8 / "model.onnx"
    right = runtimes.logits(runtimes.OnnxRuntime(file, 1), samples, 256).argmax(1) == label
    sparse = models.load_classifier(int8)
    integers, teacher = integer.load(int8), out / "finetune"
    with TemporaryDirectory() as scratch:
        small = Path(scratch) / "model.winnow"
        bundle.write(int8, {"accuracy": round(float(right.mean()), 6)}, small)
        ratios = ledger.ratios(
            models.load_classifier(teacher),
            teacher / "model.safetensors",
            sparse,
            integers,
            file,
            small,
            ledger.by_part(integers, file, small),
        )
        return Found(right, ratios, small.stat().st_size)


def test(field: Field) -> tuple[Any, np.ndarray]:
    """Read the test split and its labels."""
    ingested = field.out / "ingest"
    manifest = store.read_table(ingested / "manifest.parquet")
    rows = manifest[manifest["split"] == "test"]
    samples = stack(build(field.section["modality"]), ingested, rows, store.read_classes(ingested))
    return samples.x, samples.label.numpy()


def taught(field: Field) -> np.ndarray:
    """Say of each test sample whether the teacher tells it right."""
    told = field.folder / "teacher.json"
    if not told.exists():
        samples, label = test(field)
        model = runtimes.TorchRuntime(models.load_classifier(field.out / "finetune"))
        right = runtimes.logits(model, samples, 256).argmax(1) == label
        told.write_text(json.dumps(right.tolist()))
    return np.array(json.loads(told.read_text()), bool)


class Row(NamedTuple):
    """What an arm came to, over all splits and seeds.

    Attributes:
        arm: its name.
        right: of each test sample, the share of seeds that told it right.
        scores: accuracy of each seed [%].
        lost: accuracy lost, and its interval [points].
        ratios: mean of each of `RATIOS`.
        size_bytes: mean.
    """

    arm: str
    right: np.ndarray
    scores: list[float]
    lost: tuple[float, float, float]
    ratios: list[float]
    size_bytes: float

    def __str__(self) -> str:
        mean, least, most = self.lost
        spread = np.std(self.scores, ddof=min(1, len(self.scores) - 1))
        cells = [
            self.arm,
            f"{np.mean(self.scores):.2f} ± {spread:.2f}",
            f"{mean:+.2f} ({least:+.2f} … {most:+.2f})",
            "yes" if mean < 1 and most < 2 else "no",
            *(f"{ratio:.1f}×" for ratio in self.ratios),
            f"{self.size_bytes / 1000:.1f}",
        ]
        return f"| {' | '.join(cells)} |"


def timed(field: Field, arms: list[str], seed: int, rounds: int) -> dict[str, dict[str, float]]:
    """Time the teacher and each arm's int8 model, in turns: see `winnow.compress.evaluate.latency`."""
    samples, _ = test(field)
    teacher = models.load_classifier(field.out / "finetune")
    runners: dict[str, runtimes.Runtime] = {"teacher, PyTorch": runtimes.TorchRuntime(teacher)}
    with TemporaryDirectory() as scratch:
        path = Path(scratch) / "teacher.onnx"
        export.to_onnx(teacher, samples, path)
        runners["teacher, ONNX Runtime"] = runtimes.OnnxRuntime(path, 1)
    for arm in arms:
        out = field.folder / "runs" / f"{arm} {seed}" / "out" / field.modality
        int8 = out / ("control" if (out / "control").exists() else "quantize")
        runners[f"{arm}, ONNX Runtime"] = runtimes.OnnxRuntime(int8 / "model.onnx", 1)
        runners[f"{arm}, engine"] = EngineClassifier(integer.load(int8), 1)
    return evaluate.latency(runners, samples, 5, rounds)


def main() -> None:
    """Teach, compress and print what the command line asks for."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.compress",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("datasets", type=Path, help="holds fsdd/, FashionMNIST/ and ag_news/")
    parser.add_argument("workspace", type=Path, help="for teachers and runs")
    parser.add_argument("--sets", nargs="+", default=list(TITLES), choices=list(TITLES))
    parser.add_argument("--arms", nargs="+", help="of bench/compress.yaml; all of them if left out")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--teachers", action="store_true", help="teach, and stop there")
    parser.add_argument("--time", type=int, metavar="ROUNDS", help="also time the models of the first seed")
    parser.add_argument("--page", type=Path, metavar="FILE", help="also draw it all as a page")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    drawn: list[dict[str, Any]] = []
    for name in asked.sets:
        every = laid_over(changes()["arms"], changes()[name].get("arms", {}))
        arms = asked.arms or list(every)
        places = list(fields(name, asked.datasets, asked.workspace))
        for title, field, raw in places:
            teach(title, name, field, raw)
        if asked.teachers:
            continue
        teacher = np.concatenate([taught(field) for _, field, _ in places])
        rows = []
        for arm in arms:
            seeds = [
                [compress(title, field, arm, every, seed) for title, field, _ in places]
                for seed in asked.seeds
            ]
            rows.append(row(arm, teacher, seeds))
        print(f"\n{TITLES[name]}, {len(teacher):,} test samples; teacher {100 * teacher.mean():.2f} %\n")
        print(f"| | accuracy, % | lost, points | under one | {' | '.join(RATIOS)} | kB |".replace("_", " "))
        print(f"|{'---|' * (5 + len(RATIOS))}")
        print("\n".join(map(str, rows)), flush=True)
        by_arm = {one.arm: one for one in rows}
        for one in rows:
            if (rival := by_arm.get(every[one.arm].get("of"))) is not None:
                difference, low, high = paired_difference(one.right, rival.right, seed=0)
                print(
                    f"\n{rival.arm} against {one.arm}: {100 * difference:+.2f} points "
                    f"({100 * low:+.2f} … {100 * high:+.2f}), {verdict(low, high)}",
                    flush=True,
                )
        times: dict[str, dict[str, float]] = {}
        if asked.time:
            times = timed(places[0][1], arms, asked.seeds[0], asked.time)
            print("\n| ms a sample | batch 1 | batch 32 |\n|---|---|---|")
            for title, taken in times.items():
                one, many = (taken[f"batch_{size}_median_ms"] for size in evaluate.BATCH_SIZES)
                print(f"| {title} | {one:.3f} | {many:.3f} |", flush=True)
        size = (places[0][1].out / "finetune" / "model.safetensors").stat().st_size
        drawn += records(name, teacher, size, rows, {a for a in arms if "of" in every[a]}, times)
    if asked.page:
        lead = "Accuracy on the test split, mean over seeds; intervals are of what was lost to the teacher."
        asked.page.write_text(variants.render("How small it gets", lead, drawn), encoding="utf-8")


def row(arm: str, teacher: np.ndarray, seeds: list[list[Found]]) -> Row:
    """Put an arm's runs together: of each seed, what was found on each split."""
    right = [np.concatenate([one.right for one in found]) for found in seeds]
    mean = np.mean(right, axis=0)
    difference, low, high = paired_difference(teacher, mean, seed=0)
    every = [one for found in seeds for one in found]
    return Row(
        arm,
        mean,
        [100 * float(one.mean()) for one in right],
        (-100 * difference, -100 * high, -100 * low),
        [float(np.mean([one.ratios[key] for one in every])) for key in RATIOS],
        float(np.mean([one.size_bytes for one in every])),
    )


def records(
    name: str,
    teacher: np.ndarray,
    size_bytes: int,
    rows: list[Row],
    dense: set[str],
    times: dict[str, dict[str, float]],
) -> list[dict[str, Any]]:
    """Give what `winnow.compress.variants.render` draws of a dataset."""

    def ms(title: str) -> float | None:
        return times[title]["batch_1_median_ms"] if title in times else None

    first = {"name": "teacher", "group": "teacher", "accuracy": float(teacher.mean()), "bytes": size_bytes}
    found = [{**first, "set": TITLES[name], "ms": ms("teacher, ONNX Runtime")}]
    for one in rows:
        # The interval of the loss, around the teacher's accuracy: that is what arms are compared by.
        accuracy, (_, least, most) = float(np.mean(one.scores)) / 100, one.lost
        found.append(
            {
                "set": TITLES[name],
                "name": one.arm,
                "group": "control" if one.arm in dense else "int8",
                "accuracy": accuracy,
                "low": float(teacher.mean()) - most / 100,
                "high": float(teacher.mean()) - least / 100,
                "bytes": one.size_bytes,
                "ms": ms(f"{one.arm}, ONNX Runtime"),
            }
        )
    return found


if __name__ == "__main__":
    main()
