"""classifier → sparse classifier."""

from pathlib import Path
from typing import Any, Literal

from winnow.compress import pruning, teaching
from winnow.compress import sparsity as sparsities
from winnow.compress.allocation import Scope
from winnow.compress.patterns import Pattern
from winnow.compress.pruning import Others
from winnow.compress.schedules import Span
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
    pattern: Pattern,
    scope: Scope,
    score: Literal["magnitude", "movement", "fisher"],
    others: Others,
    schedule: Span,
    model: dict[str, Any],
    data: dict[str, Any],
    trainer: dict[str, Any],
    threads: int,
    logs: Path,
) -> None:
    """Prune gradually, taught by the dense teacher.

    Args:
        modality: what the samples are.
        ingest: samples.
        labels: folder of the last round's decisions.
        teacher: folder of the classifier that teaches.
        student: folder of the classifier that is pruned.
        out: receives `model.safetensors`, `config.json`, `history.csv`, `layers.csv` with the sparsity of
            each matrix and what the scan found, and `metrics.json`.
        sparsity: fraction of zeros in all pruned matrices, in the end [0–1).
        pattern: what is pruned together.
        scope: the same sparsity in each layer, one threshold for all, more of small matrices kept, or as
            much as a scan of the validation loss says that each bears.
        score: what is kept.
        others: what else is pruned, how far.
        schedule: when; the learning rate is best held (`optimization.hold`) until `schedule.end`.
        model: arguments of `Pruned`.
        data: arguments of `Samples`.
        trainer: arguments of Lightning's `Trainer`.
        threads: of torch.
        logs: receives logs and checkpoints.

    Raises:
        BadInput: if the pattern does not go with the sparsity or the scope, or the student has nothing of
            what else is to be pruned.

    Paper: Prune Once for All (Zafrir et al. 2021, arXiv 2111.05754), section 3.2; downstream.
    """
    others.require(models.load_classifier(student))
    prunings = pruning.make(sparsity, pattern, scope, score, schedule, others)
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
        callbacks=prunings,
    )
    pruning.save(method.student, prunings, out, others, scope=scope, score=score)
    history.write(out / "history.csv")
    metrics = {
        "val_accuracy": teaching.validation_accuracy(method, method.student),
        "teacher_val_accuracy": teaching.validation_accuracy(method, method.teacher),
        "sparsity": round(sparsities.measured_sparsity(method.student), 6),
    }
    store.write_json(out / "metrics.json", metrics)


if __name__ == "__main__":
    run(main)  # not as LightningCLI, whose `fit` would know nothing of the pruning that main adds
