"""From the words of a section of params.yaml to the callback that prunes by them, and what it did."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning
import pandas as pd

from winnow.compress import sensitivity
from winnow.compress.allocation import Scope, by_sensitivity, erdos_renyi_kernel, layerwise, overall
from winnow.compress.callbacks import Pruning
from winnow.compress.patterns import NM, Pattern
from winnow.compress.schedules import Span
from winnow.compress.scores import BlockFisher, Magnitude, Movement
from winnow.compress.sparsity import require_zeros
from winnow.data.stage import BadInput
from winnow.ssl import model as models
from winnow.ssl.classification import label_loss, predict
from winnow.ssl.model import Classifier
from winnow.ssl.trunk import Encoder

SCORES = {"magnitude": Magnitude, "movement": Movement, "fisher": BlockFisher}
SCOPES = {"layer": layerwise, "global": overall, "erk": erdos_renyi_kernel}


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


def make(sparsity: float, pattern: Pattern, scope: Scope, score: str, schedule: Span) -> Pruning:
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


def save(network: Encoder | Classifier, pruning: Pruning, out: Path, **chosen: str) -> None:
    """Write what was pruned, with the words that it was pruned by, and `layers.csv`.

    Raises:
        RuntimeError: if a zero is none.
    """
    require_zeros(network, pruning.keep)
    pattern = {"sparsity": pruning.sparsity, **asdict(pruning.pruner.pattern), **chosen}
    models.save(network, out, pattern=pattern)
    layers(pruning).to_csv(out / "layers.csv", index=False, float_format="%.6g")


def layers(pruning: Pruning) -> pd.DataFrame:
    """Give a row for each pruned matrix: `name, weights, sparsity`, and its loss at each scanned level."""
    rows = [(name, kept.numel(), 1 - float(kept.double().mean())) for name, kept in pruning.keep.items()]
    table = pd.DataFrame(rows, columns=["name", "weights", "sparsity"])
    if isinstance(pruning, ScannedPruning):
        wide = pruning.table.pivot(index="name", columns="sparsity", values="loss").add_prefix("loss_at_")
        table = table.join(wide, on="name")
    return table
