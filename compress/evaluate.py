"""teacher, student, sparse and int8 classifier → accuracy, bytes and latency, side by side."""

import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int64
from torch import Tensor

from winnow.compress import bundle, export, integer, ledger, posttraining, sparsity, steps
from winnow.compress.engine.classifier import EngineClassifier
from winnow.compress.engine.library import Unavailable
from winnow.compress.fakequant import Products
from winnow.compress.runtimes import OnnxRuntime, Runtime, TorchRuntime, in_turns, logits
from winnow.data import store
from winnow.data.batches import stack
from winnow.data.intervals import measured, paired_difference
from winnow.data.modality import Modality
from winnow.data.stage import BadInput, run
from winnow.ssl import model as models
from winnow.ssl.model import Classifier

BATCH_SIZES = (1, 32)  # whose latency is measured
ENGINE = "{}_engine"  # an int8 model in winnow's own runtime

_log = logging.getLogger(__name__)


def main(
    modality: Modality,
    ingest: Path,
    teacher: Path,
    student: Path,
    sparse: Path,
    int8: Path,
    rival: Path,
    out: Path,
    *,
    batch_size: int,
    calibration: int,
    resamples: int,
    warmup: int,
    rounds: int,
    seed: int,
    threads: int,
) -> None:
    """Score the four on the test split, with the labels that it was delivered with.

    All of them run in ONNX Runtime: size and precision are then all that sets them apart. The int8 model
    runs in the engine, too, where that can be built, for its time and for how often it says another class.
    So does the control, where there is one.

    Args:
        modality: what the samples are.
        ingest: samples and manifest.
        teacher: folder of the classifier that compression began with.
        student: folder of the shallower one.
        sparse: folder of the pruned one.
        int8: folder of the quantized one.
        rival: folder of the dense int8 classifier of as many bytes, see `winnow.compress.control`; `int8`
            again where there is none.
        out: receives `model.winnow`, the int8 model to ship; `metrics.json`, `ledger.json`,
            `predictions.parquet`; `layers.csv` and `training.csv`, see `winnow.compress.steps`; and
            `latency.json`, the only one that differs from run to run.
        batch_size: samples in a batch while scoring.
        calibration: training samples that post-training quantization reads its ranges off.
        resamples: bootstrap draws of the accuracy lost.
        warmup: runs of each model before time is taken.
        rounds: runs of each model that are timed, in turns.
        seed: of the bootstrap.
        threads: of ONNX Runtime and the engine.

    Raises:
        BadInput: if a model knows other classes than the dataset.
    """
    torch.set_num_threads(threads)
    classes = store.read_classes(ingest)
    manifest = store.read_table(ingest / "manifest.parquet")
    test = manifest[(manifest["split"] == "test") & manifest["label"].notna()]
    if test.empty:
        raise BadInput(f"{ingest / 'manifest.parquet'}: no labelled sample in the test split")
    samples = stack(modality, ingest, test, classes)

    directories = {"teacher": teacher, "student": student, "sparse": sparse}
    floats = {name: models.load_classifier(path) for name, path in directories.items()}
    for name, model in floats.items():
        if model.classes != classes:
            raise BadInput(f"the {name} knows the classes {model.classes}, the dataset {classes}")
    integers = integer.load(int8)
    control = {} if rival.resolve() == int8.resolve() else {"control": integer.load(rival)}
    for name, model in control.items():
        if model.classes != classes:
            raise BadInput(f"the {name} knows the classes {model.classes}, the dataset {classes}")
    shipped = {name: path / "model.safetensors" for name, path in directories.items()}
    shipped["int8"] = int8 / "model.onnx"
    if control:
        shipped["control"] = rival / "model.onnx"

    with tempfile.TemporaryDirectory() as scratch:
        runners: dict[str, Runtime] = {}
        for name, model in floats.items():
            path = Path(scratch, f"{name}.onnx")
            export.to_onnx(model, samples.x, path)
            runners[name] = OnnxRuntime(path, threads)
    for name in ("int8", *control):
        runners[name] = OnnxRuntime(shipped[name], threads)

    # Beside them, what the sparse model would be in int8 without training in it.
    train = manifest[(manifest["split"] == "train") & manifest["label"].notna()]
    seen = stack(modality, ingest, train.sample(min(calibration, len(train)), random_state=seed), classes)
    attention: Products = "int8" if integer.count(integers).attentions else "float"
    static = posttraining.static(floats["sparse"], seen.x, attention)
    untrained = {
        "static": TorchRuntime(static),
        "dynamic": TorchRuntime(posttraining.dynamic(floats["sparse"], attention)),
    }

    label = samples.label.numpy()
    predictions = {name: logits(runner, samples.x, batch_size).argmax(1) for name, runner in runners.items()}
    correct = {name: prediction == label for name, prediction in predictions.items()}
    metrics: dict[str, int | float] = {"test_samples": len(label)}
    for name, path in shipped.items():
        metrics |= measured(f"{name}_accuracy", correct[name])
        metrics[f"{name}_size_bytes"] = path.stat().st_size
        metrics[f"{name}_zstd_bytes"] = export.compressed_bytes(path.read_bytes())
    for name in ("student", "sparse", "int8"):
        metrics |= lost(name, correct["teacher"], correct[name], seed, resamples)
    pairs = [("student", "sparse"), ("sparse", "int8"), *((name, "int8") for name in control)]
    for before, after in pairs:
        metrics |= gained(f"{after}_minus_{before}", correct[before], correct[after], seed, resamples)
    for name, runner in untrained.items():
        right = logits(runner, samples.x, batch_size).argmax(1) == label
        metrics |= measured(f"posttraining_{name}_accuracy", right)
        metrics |= lost(f"posttraining_{name}", correct["teacher"], right, seed, resamples)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "static.onnx")
        export.to_onnx(static, samples.x, path)
        metrics["posttraining_static_size_bytes"] = path.stat().st_size
    metrics["sparsity"] = round(sparsity.measured_sparsity(floats["sparse"]), 6)

    small = out / "model.winnow"
    card = describe(modality, manifest, metrics, models.read_notes(int8))
    bundle.write(int8, card, small)
    metrics |= steps.weigh(floats, integers, models.load_classifier(int8), samples.x)
    steps.layers(floats["sparse"], integers, sparse).to_csv(
        out / "layers.csv", index=False, float_format="%.6g"
    )
    trained = steps.training({**directories, "int8": int8})
    trained.to_csv(out / "training.csv", index=False, float_format="%.6g")
    book = ledger.by_part(integers, shipped["int8"], small)
    compared = {
        f"{name}_to_int8": ledger.ratios(
            floats[name], shipped[name], floats["sparse"], integers, shipped["int8"], small, book
        )
        for name in ("teacher", "student")
    }
    store.write_json(out / "ledger.json", {"parts": book, **compared})
    metrics["bundle_size_bytes"] = small.stat().st_size
    if control:
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch, small.name)
            bundle.write(rival, card, path)  # with the same card, which counts, too
            metrics["control_bundle_size_bytes"] = path.stat().st_size
    for key in ("counted", "packed", "compressed", "whole_file"):
        metrics[f"{key}_ratio"] = compared["student_to_int8"][key]
    store.write_json(out / "metrics.json", metrics)

    names = np.array(classes)
    table = pd.DataFrame({"id": test["id"].to_numpy(), "label": test["label"].to_numpy()})
    for name, prediction in predictions.items():
        table[name] = names[prediction]
    store.write_table(out / "predictions.parquet", table)
    told: dict[str, dict[str, int | float | str]] = {}
    for name, model in {"int8": integers, **control}.items():
        engine, told[ENGINE.format(name)] = in_engine(
            name, model, threads, samples.x, batch_size, predictions[name]
        )
        if engine:
            runners[ENGINE.format(name)] = engine
    timed = latency(runners, samples.x, warmup, rounds)
    told = {name: {**timed.get(name, {}), **found} for name, found in told.items()}
    store.write_json(out / "latency.json", timed | told)
    _log.info(
        "int8: accuracy %.3f, %+.2f points from the teacher's %.3f, %.1f times smaller on disk",
        metrics["int8_accuracy"],
        metrics["int8_minus_teacher_points"],
        metrics["teacher_accuracy"],
        metrics["teacher_size_bytes"] / metrics["bundle_size_bytes"],
    )


def describe(
    modality: Modality, manifest: pd.DataFrame, metrics: Mapping[str, int | float], notes: Mapping[str, Any]
) -> dict[str, Any]:
    """Say what a user of the int8 model should know: its card."""
    labelled = manifest[manifest["label"].notna()]
    return {
        "reads": type(modality).__name__,
        "labelled_samples": {str(k): int(n) for k, n in labelled["split"].value_counts().items()},
        "accuracy": _interval("int8_accuracy", metrics),
        "points_against_the_teacher": _interval("int8_minus_teacher_points", metrics),
        "sparsity": metrics["sparsity"],
        "made_by": notes,
        "about": "Accuracy is of the test split, with the labels as they were delivered; intervals are of "
        "95 %. On data of another kind than the training's, probabilities mean nothing.",
    }


def _interval(name: str, metrics: Mapping[str, int | float]) -> dict[str, float]:
    return {"value": metrics[name], "low": metrics[f"{name}_low"], "high": metrics[f"{name}_high"]}


def lost(name: str, teacher: np.ndarray, other: np.ndarray, seed: int, resamples: int) -> dict[str, float]:
    """Give a model's accuracy less the teacher's, with its paired 95 % interval [points]."""
    return gained(f"{name}_minus_teacher", teacher, other, seed, resamples)


def gained(name: str, before: np.ndarray, after: np.ndarray, seed: int, resamples: int) -> dict[str, float]:
    """Give a difference of accuracies over the same samples, with its paired 95 % interval [points]."""
    difference = paired_difference(before, after, seed, resamples)
    keys = ("points", "points_low", "points_high")
    return {f"{name}_{key}": round(100 * value, 4) for key, value in zip(keys, difference, strict=True)}


def in_engine(
    name: str,
    model: Classifier,
    threads: int,
    x: Tensor,
    batch_size: int,
    wanted: Int64[np.ndarray, " sample"],
) -> tuple[Runtime | None, dict[str, int | float | str]]:
    """Bring an int8 model into the engine, and count the samples of which it says another class.

    Both round to the levels of the next layer, and which way a number between two of them goes depends on the
    machine.

    Returns:
        The engine, and how many classes differ from those that ONNX Runtime said (`wanted`); None, and why,
        where it does not run.
    """
    try:
        engine = EngineClassifier(model, threads)
    except (Unavailable, ValueError) as error:
        _log.warning("%s is not measured in the engine: %s", name, error)
        return None, {"missing": str(error)}
    differ = logits(engine, x, batch_size).argmax(1) != wanted
    return engine, {"classes_that_differ": int(differ.sum())}


def latency(
    runners: Mapping[str, Runtime], x: Tensor, warmup: int, rounds: int
) -> dict[str, dict[str, float]]:
    """Time the models in turns, so that what else the machine does falls on all of them alike.

    Returns:
        By model: median, 10th and 90th percentile for a batch of each size [ms per sample].
    """
    found: dict[str, dict[str, float]] = {name: {} for name in runners}
    for size in BATCH_SIZES:
        taken = in_turns(runners, x[torch.arange(size) % len(x)], warmup, rounds)
        for name, times in taken.items():
            for key, percentile in (("p10", 10), ("median", 50), ("p90", 90)):
                value = 1000 * float(np.percentile(times, percentile)) / size
                found[name][f"batch_{size}_{key}_ms"] = round(value, 5)
    return found


if __name__ == "__main__":
    run(main)
