"""sparse classifier → int8 classifier, trained to be one, and its ONNX file."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch

from winnow.compress import export, fakequant, integer, runtimes, saturation, teaching
from winnow.compress import sparsity as sparsities
from winnow.compress.callbacks import PatternLock
from winnow.compress.fakequant import Bits, Products
from winnow.compress.runtimes import OnnxRuntime
from winnow.compress.teaching import Distillation, Taught
from winnow.data import store
from winnow.data.batches import Batch
from winnow.data.modality import Modality
from winnow.data.stage import run
from winnow.ssl import classification
from winnow.ssl import model as models
from winnow.ssl.model import Classifier
from winnow.ssl.train import Optimization

MIN_AGREEMENT = 0.99  # of ONNX Runtime with torch; below it the file is another model

_log = logging.getLogger(__name__)


class Quantized(Taught):
    """Teaches a classifier in the arithmetic of its int8 form.

    Args:
        modality: of the samples.
        classes: of the samples.
        teacher: folder of the classifier that teaches.
        sparse: folder of the classifier that is quantized.
        observe: fraction of the run after which activations' ranges stay [0–1].
        bits: of weights.
        attention: what its products are of: `float`, or `int8`.
        distillation: what counts how much.
        optimization: learning rate and its schedule.
        seed: of dropout.
    """

    def __init__(
        self,
        modality: Modality,
        classes: list[str],
        teacher: Path,
        sparse: Path,
        observe: float,
        bits: Bits,
        attention: Products,
        distillation: Distillation,
        optimization: Optimization,
        seed: int,
    ) -> None:
        student = models.load_classifier(Path(sparse))
        taught = models.load_classifier(Path(teacher))
        super().__init__(student, taught, modality, classes, distillation, optimization, seed)
        fakequant.fake_quantize(self.student, bits, attention)
        self.observe = observe

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        super().on_train_batch_start(batch, batch_idx)
        if self.global_step >= self.observe * self.trainer.max_steps:
            fakequant.freeze(self.student)


def main(
    modality: Modality,
    ingest: Path,
    labels: Path,
    teacher: Path,
    sparse: Path,
    out: Path,
    *,
    model: dict[str, Any],
    data: dict[str, Any],
    trainer: dict[str, Any],
    threads: int,
    logs: Path,
) -> None:
    """Train in fake int8 with the zeros locked, then write the integers.

    Args:
        modality: what the samples are.
        ingest: samples.
        labels: folder of the last round's decisions.
        teacher: folder of the classifier that teaches.
        sparse: folder of the classifier that is quantized; its zeros stay.
        out: receives `model.onnx` to ship, `quantized.safetensors` that it is made from,
            `model.safetensors` and `config.json` with the float weights behind, `history.csv`,
            `metrics.json`.
        model: arguments of `Quantized`.
        data: arguments of `Samples`.
        trainer: arguments of Lightning's `Trainer`.
        threads: of torch.
        logs: receives logs and checkpoints.

    Raises:
        RuntimeError: if the file does not do what the trained network does.
    """
    pattern = PatternLock("student")
    method, history = teaching.teach(
        Quantized,
        modality,
        ingest,
        labels,
        model={"teacher": str(teacher), "sparse": str(sparse), **model},
        data=data,
        trainer=trainer,
        threads=threads,
        logs=logs,
        callbacks=(pattern,),
    )
    sparsities.require_zeros(method.student, pattern.keep)
    fakequant.round_rest(method.student)
    master = models.load_classifier(sparse)
    master.load_state_dict(fakequant.master_weights(method.student))
    models.save(master, out, **models.read_notes(sparse))
    history.write(out / "history.csv")

    integers = integer.to_integers(method.student)
    integer.require_zeros(integers, pattern.keep)
    integer.save(integers, out / "quantized.safetensors")
    # What is shipped is made from the file, not from memory: the two cannot drift apart.
    integers = integer.load(out)
    samples = teaching.validation(method)
    export.to_onnx(integers, samples.x, out / "model.onnx")
    metrics = {
        "val_accuracy": teaching.validation_accuracy(method, method.student),
        "teacher_val_accuracy": teaching.validation_accuracy(method, method.teacher),
        "sparsity": round(sparsities.measured_sparsity(method.student), 6),
        **saturating(integers, samples),
        **compare(method.student, out / "model.onnx", samples, threads),
    }
    store.write_json(out / "metrics.json", metrics)


def saturating(integers: Classifier, samples: Batch) -> dict[str, float]:
    """Say how many outputs kernels would get wrong that add products in 16 bits."""
    found = saturation.measure(integers, samples.x[:64])
    if found.measured:
        _log.warning(
            "on CPUs without VNNI, %.2g %% of the outputs of 64 validation samples would saturate; "
            "with quantize.model.bits.layers = 7 none can",
            100 * found.measured,
        )
    return {
        "saturation_possible": round(found.possible, 6),
        "saturation_measured": round(found.measured, 6),
    }


def compare(student: Classifier, path: Path, samples: Batch, threads: int) -> dict[str, float]:
    """Run the file and the network it was made from on the same samples.

    Raises:
        RuntimeError: if they give different classes too often.
    """
    wanted = classification.predict(student, samples.x, 256)
    found = runtimes.logits(OnnxRuntime(path, threads), samples.x, 256)
    agreement = float(np.mean(found.argmax(1) == wanted.argmax(1).numpy()))
    if agreement < MIN_AGREEMENT:
        raise RuntimeError(
            f"{path.name} agrees with the trained network on {agreement:.1%} of the validation "
            f"samples only, less than {MIN_AGREEMENT:.0%}"
        )
    return {
        "onnx_val_accuracy": round(classification.accuracy(torch.from_numpy(found), samples.label), 6),
        "onnx_agreement": round(agreement, 6),
        "onnx_max_logit_difference": round(float(np.abs(found - wanted.numpy()).max()), 4),
    }


if __name__ == "__main__":
    run(main)  # not as LightningCLI, whose `fit` would know nothing of the locked pattern that main adds
