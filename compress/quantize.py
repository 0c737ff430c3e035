"""sparse classifier → int8 classifier, trained to be one, and its ONNX file."""

from pathlib import Path
from typing import Any

from winnow.compress import fakequant, pruning, shipping, teaching
from winnow.compress import sparsity as sparsities
from winnow.compress.fakequant import Bits, Products
from winnow.compress.folding import folded
from winnow.compress.teaching import Distillation, Taught
from winnow.data import store
from winnow.data.batches import Batch
from winnow.data.modality import Modality
from winnow.data.stage import run
from winnow.ssl import model as models
from winnow.ssl.train import Optimization


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
        student.encoder = folded(student.encoder)
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
    locks = pruning.locks(models.read_notes(sparse))
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
        callbacks=locks,
    )
    keep = {name: kept for lock in locks for name, kept in lock.keep.items()}
    history.write(out / "history.csv")
    shipped = shipping.ship(
        method.student, keep, teaching.validation(method), out, models.read_notes(sparse), threads
    )
    metrics = {
        "val_accuracy": teaching.validation_accuracy(method, method.student),
        "teacher_val_accuracy": teaching.validation_accuracy(method, method.teacher),
        "sparsity": round(sparsities.measured_sparsity(method.student), 6),
        **shipped,
    }
    store.write_json(out / "metrics.json", metrics)


if __name__ == "__main__":
    run(main)  # not as LightningCLI, whose `fit` would know nothing of the locked pattern that main adds
