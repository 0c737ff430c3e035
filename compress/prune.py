"""classifier → sparse classifier."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from winnow.compress import sparsity as sparsities
from winnow.compress import teaching
from winnow.compress.callbacks import Pruning
from winnow.compress.sparsity import Pattern, Pooling, Schedule
from winnow.compress.teaching import Distillation, Taught
from winnow.data import store
from winnow.data.modality import Modality
from winnow.data.stage import run
from winnow.ssl import model as models
from winnow.ssl.train import Optimization


class Pruned(Taught):
    """Teaches a classifier while `Pruning` takes its weights away.

    Args:
        modality: of the samples.
        classes: of the samples.
        teacher: folder of the classifier that teaches.
        student: folder of the classifier that is pruned.
        distillation: what counts how much.
        optimization: learning rate and its schedule.
        seed: of dropout.
    """

    def __init__(
        self,
        modality: Modality,
        classes: list[str],
        teacher: Path,
        student: Path,
        distillation: Distillation,
        optimization: Optimization,
        seed: int,
    ) -> None:
        super().__init__(
            models.load_classifier(Path(student)),
            models.load_classifier(Path(teacher)),
            modality,
            classes,
            distillation,
            optimization,
            seed,
        )


def main(
    modality: Modality,
    ingest: Path,
    labels: Path,
    teacher: Path,
    student: Path,
    out: Path,
    *,
    sparsity: float,
    block: tuple[int, int],
    pooling: Pooling,
    schedule: Schedule,
    model: dict[str, Any],
    data: dict[str, Any],
    trainer: dict[str, Any],
    threads: int,
    logs: Path,
) -> None:
    """Prune by magnitude, gradually, taught by the dense teacher.

    Args:
        modality: what the samples are.
        ingest: samples.
        labels: folder of the last round's decisions.
        teacher: folder of the classifier that teaches.
        student: folder of the classifier that is pruned.
        out: receives `model.safetensors`, `config.json`, `history.csv`, `metrics.json`.
        sparsity: fraction of zeros in each pruned matrix, in the end [0–1).
        block: rows and columns that are pruned together.
        pooling: what stands for a block.
        schedule: when; the learning rate is best held (`optimization.hold`) until `schedule.end`.
        model: arguments of `Pruned`.
        data: arguments of `Samples`.
        trainer: arguments of Lightning's `Trainer`.
        threads: of torch.
        logs: receives logs and checkpoints.

    Paper: Prune Once for All (Zafrir et al. 2021, arXiv 2111.05754), section 3.2; downstream.
    """
    pattern = Pattern(sparsity=sparsity, block=block, pooling=pooling)
    pruning = Pruning(pattern, schedule)
    method, history = teaching.teach(
        Pruned,
        modality,
        ingest,
        labels,
        model={"teacher": str(teacher), "student": str(student), **model},
        data=data,
        trainer=trainer,
        threads=threads,
        logs=logs,
        callbacks=(pruning,),
    )
    sparsities.require_zeros(method.student, pruning.keep)
    models.save(method.student, out, pattern=asdict(pattern))
    history.write(out / "history.csv")
    metrics = {
        "val_accuracy": teaching.validation_accuracy(method, method.student),
        "teacher_val_accuracy": teaching.validation_accuracy(method, method.teacher),
        "sparsity": round(sparsities.measured_sparsity(method.student), 6),
    }
    store.write_json(out / "metrics.json", metrics)


if __name__ == "__main__":
    run(main)  # not as LightningCLI, whose `fit` would know nothing of the pruning that main adds
