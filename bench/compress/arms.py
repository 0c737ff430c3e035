"""An arm is a way to compress a teacher: the pipeline's own stages that it names, run, and what came out."""

import hashlib
import json
import shutil
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import yaml

from bench.compress.sets import Field, numbers, run, say
from bench.latency import OPENVINO, Run, clock_of, in_openvino, in_turns
from bench.variants import seeded
from examples.real import laid_over
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
)
from winnow.compress.engine.classifier import EngineClassifier
from winnow.compress.engine.library import Unavailable
from winnow.ssl import model as models

MAINS = {
    "distill": distill.main,
    "prune": prune.main,
    "quantize": quantize.main,
    "control": control.main,
}


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


def stages_of(arms: Mapping[str, dict[str, Any]], name: str, modality: str, seed: int) -> dict[str, Any]:
    """Give the stages of an arm, in their order, with all of their numbers.

    A control (`of`: the arm that it stands against) trains as many steps as the stages of that together.
    """
    whole = numbers(modality)
    arm = {stage: laid_over(whole[stage], own) for stage, own in arms[name].items() if stage in MAINS}
    if (rival := arms[name].get("of")) is not None:
        most = sum(stage["trainer"]["max_steps"] for stage in arms[rival].values())
        arm["control"]["trainer"] |= {"max_steps": most, "val_check_interval": most}
    return seeded(arm, seed)


def compress(field: Field, arms: Mapping[str, dict[str, Any]], name: str, seed: int) -> Found:
    """Compress a teacher in one way and measure what comes out, unless it is done already, and says so."""
    stages = stages_of(arms, name, field.modality, seed)
    section = {"modality": field.kind, **stages}
    folder, rival = folder_of(field, name, seed), arms[name].get("of")
    against = None if rival is None else folder_of(field, rival, seed) / "out" / field.modality / "quantize"
    settings = json.dumps([section, against and fingerprint(against)], sort_keys=True)
    told, title = folder / "found.json", f"{field.title}: {name}, seed {seed}"
    if told.exists():
        held = json.loads(told.read_text(encoding="utf-8"))
        if held["settings"] == settings:
            say(f"{title}: is there, and kept")
            return Found(np.array(held["right"], bool), held["ratios"], held["size_bytes"])
    shutil.rmtree(folder, ignore_errors=True)
    out = folder / "out" / field.modality
    out.mkdir(parents=True)
    (folder / "params.yaml").write_text(yaml.safe_dump({field.modality: section}), encoding="utf-8")
    for origin in ("ingest", "finetune"):
        (out / origin).symlink_to((field.out / origin).resolve())
    began, last = time.perf_counter(), "finetune"
    if against is not None:
        (out / "quantize").symlink_to(against.resolve())
        last = "quantize"
    for stage in stages:
        main = MAINS[stage]
        words = ["ingest", "ingest", "finetune", *([] if main is distill.main else [last]), stage]
        run(main, folder, field.modality, *(f"out/{field.modality}/{word}" for word in words))
        last = stage
    found = measure(field, out, out / last)
    seconds = round(time.perf_counter() - began, 1)
    content = {"right": found.right.tolist(), "ratios": found.ratios, "size_bytes": found.size_bytes}
    told.write_text(json.dumps({"settings": settings, "seconds": seconds, **content}), encoding="utf-8")
    shutil.rmtree(folder / "logs", ignore_errors=True)
    say(f"{title}: {100 * found.right.mean():.2f} %, {found.size_bytes:,} bytes, {seconds} s")
    return found


def folder_of(field: Field, arm: str, seed: int) -> Path:
    """Say where a run lies."""
    return field.folder / "runs" / f"{arm} {seed}"


def fingerprint(int8: Path) -> str:
    """Tell an int8 model from others: a control is made for one of them."""
    return hashlib.sha256((int8 / "quantized.safetensors").read_bytes()).hexdigest()


def measure(field: Field, out: Path, int8: Path) -> Found:
    """Ask the int8 model of the test split, and weigh it against the teacher."""
    samples, label = field.test()
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


def timed(field: Field, arms: list[str], seed: int, rounds: int) -> dict[str, dict[int, float]]:
    """Time the teacher and each arm's int8 model in every runtime, in turns, on one thread.

    Returns:
        By model and runtime: of each batch size, the median of the processor's time [ms per sample].
    """
    samples, _ = field.test()
    teacher = models.load_classifier(field.out / "finetune")
    found: dict[str, dict[int, float]] = {}
    with TemporaryDirectory() as scratch:
        path = Path(scratch) / "teacher.onnx"
        export.to_onnx(teacher, samples, path)
        files = {"teacher": path}
        for arm in arms:
            out = folder_of(field, arm, seed) / "out" / field.modality
            files[arm] = out / ("control" if (out / "control").exists() else "quantize") / "model.onnx"
        ways: dict[str, runtimes.Runtime] = {"teacher | PyTorch": runtimes.TorchRuntime(teacher)}
        ways |= {f"{name} | ONNX Runtime": runtimes.OnnxRuntime(file, 1) for name, file in files.items()}
        for arm in arms:
            try:
                ways[f"{arm} | engine"] = EngineClassifier(integer.load(files[arm].parent), 1)
            except (Unavailable, ValueError) as error:  # of a control, heads may be of any width
                say(f"{arm} is not timed in the engine: {error}")
        for size in evaluate.BATCH_SIZES:
            x = samples[:size]
            runs: dict[str, Run] = {name: partial(runner, x) for name, runner in ways.items()}
            if OPENVINO:
                runs |= {f"{name} | OpenVINO": in_openvino(file, x, 1) for name, file in files.items()}
            for name, seconds in in_turns(runs, rounds, clock_of(1)).items():
                found.setdefault(name, {})[size] = 1000 * seconds / size
    return found
