"""sparse encoder + labels → sparse classifier, its pattern locked."""

import shutil
from pathlib import Path
from typing import Any

from winnow.compress import sparsity as sparsities
from winnow.compress import teaching
from winnow.compress.callbacks import PatternLock
from winnow.compress.teaching import Distillation, Taught
from winnow.data import store
from winnow.data.modality import Modality
from winnow.data.stage import run
from winnow.ssl import model as models
from winnow.ssl.method import start
from winnow.ssl.model import Classifier
from winnow.ssl.train import Optimization


class Transferred(Taught):
    """Teaches a task to an encoder that is sparse already.

    Args:
        modality: of the samples.
        classes: of the samples.
        teacher: folder of the dense classifier that teaches.
        encoder: folder of the sparse encoder.
        dropout: of the trunk while training.
        distillation: what counts how much.
        optimization: learning rate and its schedule.
        seed: of the head and of dropout.
    """

    def __init__(
        self,
        modality: Modality,
        classes: list[str],
        teacher: Path,
        encoder: Path,
        dropout: float,
        distillation: Distillation,
        optimization: Optimization,
        seed: int,
    ) -> None:
        student = Classifier(start(Path(encoder), modality, dropout), classes)
        taught = models.load_classifier(Path(teacher))
        super().__init__(student, taught, modality, classes, distillation, optimization, seed)


def main(
    modality: Modality,
    ingest: Path,
    labels: Path,
    teacher: Path,
    encoder: Path,
    out: Path,
    *,
    model: dict[str, Any],
    data: dict[str, Any],
    trainer: dict[str, Any],
    threads: int,
    logs: Path,
) -> None:
    """Fine-tune a sparse encoder; not one of its zeros comes back.

    Args:
        modality: what the samples are.
        ingest: samples.
        labels: folder of the last round's decisions.
        teacher: folder of the dense classifier that teaches.
        encoder: folder of the sparse encoder.
        out: receives `model.safetensors`, `config.json`, `history.csv`, `metrics.json`; `sparsify.csv`, the
            history of the encoder.
        model: arguments of `Transferred`.
        data: arguments of `Samples`.
        trainer: arguments of Lightning's `Trainer`.
        threads: of torch.
        logs: receives logs and checkpoints.

    Paper: Prune Once for All (Zafrir et al. 2021, arXiv 2111.05754), section 3.3.
    """
    lock = PatternLock("student")
    method, history = teaching.teach(
        Transferred,
        modality,
        ingest,
        labels,
        model={"teacher": str(teacher), "encoder": str(encoder), **model},
        data=data,
        trainer=trainer,
        threads=threads,
        logs=logs,
        callbacks=(lock,),
    )
    sparsities.require_zeros(method.student, lock.keep)
    models.save(method.student, out, **models.read_notes(encoder))
    history.write(out / "history.csv")
    # What reads the classifier can tell what it took, and need not know whose encoder it has.
    shutil.copyfile(encoder / "history.csv", out / "sparsify.csv")
    metrics = {
        "val_accuracy": teaching.validation_accuracy(method, method.student),
        "teacher_val_accuracy": teaching.validation_accuracy(method, method.teacher),
        "sparsity": round(sparsities.measured_sparsity(method.student), 6),
    }
    store.write_json(out / "metrics.json", metrics)


if __name__ == "__main__":
    run(main)  # not as LightningCLI, whose `fit` would know nothing of the locked pattern that main adds
