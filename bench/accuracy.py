"""Time to accuracy of pretraining: data2vec, data2vec 2.0, and winnow's own settings, side by side.

`python -m bench.pretraining accuracy WORKSPACE` reads what `ingest` wrote to WORKSPACE/out (`make real`
writes build/real), and trains three networks of one size on the same samples, without labels:

- `data2vec`: its recipe of examples/recipes, at the size, the batch and the schedule of `winnow`, under what
  bench/accuracy.yaml changes for a run as short;
- `data2vec 2.0`: the same of its recipe;
- `winnow`: params.yaml, under what bench/labels.yaml changes.

They train in this process, in turns of a few steps, so that what else the machine does falls on all alike.
The clock of each counts its own training alone, with the making of its batches. At fixed marks, outside of
any clock, a logistic regression of one fixed penalty learns true labels from the frozen features, and is
scored on the test split. With several seeds, curves are means over them.
"""

import argparse
import ctypes
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml
from jsonargparse import ArgumentParser
from threadpoolctl import threadpool_limits

from bench.labels import Field, sections
from bench.speed import update
from examples.real import PROJECT, laid_over
from winnow.data import folds
from winnow.data.batches import Batch, TrainBatches, Variants
from winnow.ssl.data2vec import Data2Vec
from winnow.ssl.train import optimizers

TURNS = 96  # of a run
MARKS = (6, 12, 24, 36, 48, 64, 80, 96)  # turns after which the probe reads
ROWS = 1000  # of the train split, at most, that the probe learns from
PENALTY = 1.0  # inverse, of the probe
FIRST = "data2vec"


class Mark(NamedTuple):
    """What was read at a mark.

    Attributes:
        cpu: processor's seconds of training so far.
        wall: seconds on the wall.
        accuracy: of the probe [%].
    """

    cpu: float
    wall: float
    accuracy: float


class Contender:
    """A network that trains when it is its turn.

    Args:
        field: the samples.
        section: `model`, `data` and `trainer` of its pretraining.
        seed: of weights, batches and masks.
    """

    def __init__(self, field: Field, section: dict[str, Any], seed: int) -> None:
        parser = ArgumentParser(exit_on_error=False)
        parser.add_class_arguments(Data2Vec, "model", skip={"modality", "seed"}, instantiate=False)
        parser.add_argument("--variants", type=Variants)
        given = {"model": section["model"], "variants": section["data"]["variants"]}
        parsed = parser.instantiate(parser.parse_object(given))
        torch.manual_seed(seed)
        self.method = Data2Vec(field.modality, **dict(parsed["model"]), seed=seed)
        self.clip, self.steps = section["trainer"]["gradient_clip_val"], section["trainer"]["max_steps"]
        batches = SimpleNamespace(update_size=section["data"]["batch_size"])
        optimization = self.method.optimization.of(batches)
        made = optimizers(self.method, optimization, self.steps, self.method.scales())
        self.optimizer, self.schedule = made["optimizer"], made["lr_scheduler"]["scheduler"]
        self.batches: Iterator[Batch] = iter(
            TrainBatches(
                field.train.samples, field.modality, variants=parsed["variants"],
                batch_size=section["data"]["batch_size"], seed=seed, start=0, rank=0, ranks=1,
            )
        )  # fmt: skip
        self.step, self.cpu, self.wall, self.memory = 0, 0.0, 0.0, 0

    def train_until(self, step: int) -> None:
        """Train, by the clock."""
        cpu, wall = time.process_time(), time.perf_counter()
        while self.step < step:
            batch = next(self.batches)
            self.method.on_train_batch_start(batch, self.step)
            self.step += 1
            decay = self.method.ema.decay(self.step, self.steps)
            update(self.method, self.optimizer, batch, self.clip, decay, mixed=False)
            self.schedule.step()
        self.cpu += time.process_time() - cpu
        self.wall += time.perf_counter() - wall

    def weigh(self) -> None:
        """Train a step, and see how much memory that takes beyond what the process holds before."""
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew
        before = resident("VmRSS")
        self.train_until(self.step + 1)
        self.memory = max(self.memory, resident("VmHWM") - before)

    def probe(self, field: Field, rows: np.ndarray) -> float:
        """Give the test accuracy that a regression reaches on the student's features [%]."""
        encoder = self.method.student.eval()
        with torch.inference_mode():
            learned, asked = (
                torch.cat([encoder.embed(part) for part in x.split(256)]).numpy()
                for x in (field.train.samples.x[rows], field.test.samples.x)
            )
        self.method.train()
        model = folds.linear(learned, PENALTY)
        with threadpool_limits(1):
            model.fit(learned, field.train.labels[rows])
            return 100 * float((model.predict(asked) == field.test.labels).mean())


def resident(name: str) -> int:
    """Read a figure of this process's memory [bytes]."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    assert found
    return int(found[1]) * 1024


def contenders(name: str, winnow: dict[str, Any], steps: int | None) -> dict[str, dict[str, Any]]:
    """Give the sections of a modality's contenders.

    Args:
        name: of the modality.
        winnow: its pretraining.
        steps: of that; the others' are as many times more as the settings say. None: as set.
    """
    settings = yaml.safe_load((PROJECT / "bench" / "accuracy.yaml").read_text(encoding="utf-8"))[name]
    steps = steps or winnow["trainer"]["max_steps"]
    size = {key: winnow["model"]["shape"][key] for key in ("dim", "layers", "heads", "mlp_ratio")}
    course = {key: winnow["model"]["optimization"][key] for key in ("warmup", "hold", "decay", "floor")}
    found = {}
    for method, recipe in (("data2vec", f"data2vec-{name}"), ("data2vec 2.0", f"data2vec2-{name}")):
        path = PROJECT / "examples" / "recipes" / f"{recipe}.yaml"
        section = yaml.safe_load(path.read_text(encoding="utf-8"))["pretrain"]
        like_winnow = {
            "model": {"shape": size, "optimization": course},
            "data": {"batch_size": winnow["data"]["batch_size"]},
            "trainer": {"max_steps": round(settings["lengths"][method] * steps)},
        }
        found[method] = laid_over(laid_over(section, like_winnow), settings[method])
    found["winnow"] = winnow | {"trainer": winnow["trainer"] | {"max_steps": steps}}
    return found


def race(field: Field, found: dict[str, dict[str, Any]], seed: int) -> dict[str, tuple[list[Mark], float]]:
    """Train all, in turns; give what was read of each, the untrained network first, and its memory [MB]."""
    number = len(field.train.labels)
    rows = np.sort(np.random.default_rng(seed).permutation(number)[:ROWS])
    racing = {name: Contender(field, section, seed) for name, section in found.items()}
    marks = {name: [Mark(0.0, 0.0, one.probe(field, rows))] for name, one in racing.items()}
    for turn in range(1, TURNS + 1):
        for name, one in racing.items():
            until = one.steps * turn // TURNS
            if turn in MARKS and until > one.step:
                one.train_until(until - 1)
                one.weigh()
            one.train_until(until)
            if turn in MARKS:
                marks[name].append(Mark(one.cpu, one.wall, one.probe(field, rows)))
        if turn in MARKS:
            read = (
                f"{name} {one.step} steps {x[-1].cpu:.1f} s ({x[-1].wall:.1f} s) {x[-1].accuracy:.1f} %"
                for (name, one), x in zip(racing.items(), marks.values(), strict=True)
            )
            print("; ".join(read), flush=True)
    return {name: (marks[name], one.memory / 1e6) for name, one in racing.items()}


def report(found: list[dict[str, tuple[list[Mark], float]]]) -> None:
    """Print how long each took to what the first data2vec reached at best while it trained."""
    curves = {name: np.mean([seed[name][0] for seed in found], 0) for name in found[0]}
    best = 1 + curves[FIRST][1:, 2].argmax()
    cpu, wall, goal = curves[FIRST][best]
    print(
        f"\nThe best of {FIRST} is {goal:.1f} %, after {cpu:.1f} s of the processor ({wall:.1f} on the wall)."
    )
    if goal <= curves[FIRST][0, 2]:
        print("It was as good or better before it trained: these steps are too few for a comparison.")
    print()
    print("| | untrained | best | in the end | all of it | reaches that best after | of its time | a step |")
    print("|---|---|---|---|---|---|---|---|")
    for name, curve in curves.items():
        accuracy, (total, elapsed, end) = curve[:, 2], curve[-1]
        reached = np.flatnonzero(accuracy >= goal)
        after, ratio = "never", "–"
        if len(reached) and reached[0] == 0:
            after = "untrained"
        elif len(reached):
            seconds, passed = curve[reached[0], :2]
            after = f"{seconds:.1f} s ({passed:.1f})"
            ratio = f"{seconds / cpu:.2f} ({passed / wall:.2f})"
        memory = np.mean([seed[name][1] for seed in found])
        print(
            f"| {name} | {accuracy[0]:.1f} | {accuracy.max():.1f} | {end:.1f} "
            f"| {total:.1f} s ({elapsed:.1f}) | {after} | {ratio} | {memory:.0f} MB |"
        )


def main(words: list[str]) -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.pretraining accuracy",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("workspace", type=Path, help="with out/<modality>/ingest")
    parser.add_argument("--modalities", nargs="+", default=["speech", "vision", "text"])
    parser.add_argument("--steps", type=int, help="of winnow's settings; others' in proportion")
    parser.add_argument("--seeds", type=int, default=1, help="how many")
    asked = parser.parse_args(words)
    torch.set_num_threads(1)
    for name in asked.modalities:
        section = sections()[name]
        found = contenders(name, section["pretrain"], asked.steps)
        print(f"\n## {name}\n", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            field = Field(asked.workspace / "out" / name, section, Path(folder))
            report([race(field, found, seed) for seed in range(asked.seeds)])
