"""classifier → sparse classifier."""

from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import lightning
import pandas as pd

from winnow.compress import sensitivity, teaching
from winnow.compress import sparsity as sparsities
from winnow.compress.allocation import Scope, by_sensitivity, erdos_renyi_kernel, layerwise, overall
from winnow.compress.callbacks import Pruning
from winnow.compress.patterns import NM, Pattern
from winnow.compress.schedules import Span
from winnow.compress.scores import BlockFisher, Magnitude, Movement
from winnow.compress.teaching import Distillation, Taught
from winnow.data import store
from winnow.data.modality import Modality
from winnow.data.stage import BadInput, run
from winnow.ssl import model as models
from winnow.ssl.classification import label_loss, predict
from winnow.ssl.train import Optimization

SCORES = {"magnitude": Magnitude, "movement": Movement, "fisher": BlockFisher}
SCOPES = {"layer": layerwise, "global": overall, "erk": erdos_renyi_kernel}


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


class ScannedPruning(Pruning):
    """Prunes each matrix as far as a scan of the network, as it comes, says that it bears.

    Attributes:
        table: what was scanned.
    """

    table: pd.DataFrame

    def on_fit_start(self, trainer: lightning.Trainer, module: Any) -> None:
        super().on_fit_start(trainer, module)
        samples = trainer.datamodule.read("validation")  # type: ignore[attr-defined]
        x, label = samples.x.to(module.device), samples.label.to(module.device)

        def loss() -> float:
            return float(label_loss(predict(module.student, x, 256), label, 0.0))

        self.table = sensitivity.scan(module.student, loss, self.pruner.pattern, choose=self.pruner.choose)
        module.student.train()
        self.pruner.allocate = by_sensitivity(sensitivity.curves(self.table))


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
        schedule: when; the learning rate is best held (`optimization.hold`) until `schedule.end`.
        model: arguments of `Pruned`.
        data: arguments of `Samples`.
        trainer: arguments of Lightning's `Trainer`.
        threads: of torch.
        logs: receives logs and checkpoints.

    Raises:
        BadInput: if the pattern does not go with the sparsity or the scope.

    Paper: Prune Once for All (Zafrir et al. 2021, arXiv 2111.05754), section 3.2; downstream.
    """
    pruning = make_pruning(sparsity, pattern, scope, score, schedule)
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
    notes = {"sparsity": sparsity, **asdict(pattern), "scope": scope, "score": score}
    models.save(method.student, out, pattern=notes)
    history.write(out / "history.csv")
    layers(pruning).to_csv(out / "layers.csv", index=False, float_format="%.6g")
    metrics = {
        "val_accuracy": teaching.validation_accuracy(method, method.student),
        "teacher_val_accuracy": teaching.validation_accuracy(method, method.teacher),
        "sparsity": round(sparsities.measured_sparsity(method.student), 6),
    }
    store.write_json(out / "metrics.json", metrics)


def make_pruning(sparsity: float, pattern: Pattern, scope: Scope, score: str, schedule: Span) -> Pruning:
    """Give the callback that a section describes.

    Raises:
        BadInput: if the pattern does not go with the sparsity or the scope.
    """
    if isinstance(pattern, NM) and scope != "layer":
        raise BadInput(f"{pattern.n}:{pattern.m} prunes all alike: scope must be layer, not {scope}")
    kind, allocate = (ScannedPruning, layerwise) if scope == "sensitivity" else (Pruning, SCOPES[scope])
    try:
        return kind(sparsity, schedule, pattern, SCORES[score](), allocate, network="student")
    except ValueError as error:
        raise BadInput(str(error)) from error


def layers(pruning: Pruning) -> pd.DataFrame:
    """Give a row for each pruned matrix: `name, weights, sparsity`, and its loss at each scanned level."""
    rows = [(name, kept.numel(), 1 - float(kept.double().mean())) for name, kept in pruning.keep.items()]
    table = pd.DataFrame(rows, columns=["name", "weights", "sparsity"])
    if isinstance(pruning, ScannedPruning):
        wide = pruning.table.pivot(index="name", columns="sparsity", values="loss").add_prefix("loss_at_")
        table = table.join(wide, on="name")
    return table


if __name__ == "__main__":
    run(main)  # not as LightningCLI, whose `fit` would know nothing of the pruning that main adds
