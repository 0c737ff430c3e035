"""From the words of a section of params.yaml to the callbacks that prune by them, and what they did."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning
import pandas as pd
from torch import nn

from winnow.compress import sensitivity
from winnow.compress.allocation import Scope, by_sensitivity, erdos_renyi_kernel, layerwise, overall
from winnow.compress.callbacks import PatternLock, Pruning
from winnow.compress.patterns import NM, Pattern
from winnow.compress.schedules import Span
from winnow.compress.scores import BlockFisher, Magnitude, Movement
from winnow.compress.sparsity import Choice, in_embeddings, in_frontend, matrices, require_zeros
from winnow.data.stage import BadInput
from winnow.ssl import model as models
from winnow.ssl.classification import label_loss, predict
from winnow.ssl.model import Classifier
from winnow.ssl.trunk import Encoder

SCORES = {"magnitude": Magnitude, "movement": Movement, "fisher": BlockFisher}
SCOPES = {"layer": layerwise, "global": overall, "erk": erdos_renyi_kernel}


@dataclass(frozen=True, kw_only=True)
class Others:
    """How much of what is not the trunk's is pruned, by single weights of least magnitude.

    Attributes:
        embeddings: fraction of zeros [0–1).
        frontend: the same of its other matrices [0–1).
    """

    embeddings: float
    frontend: float

    def chosen(self) -> dict[str, tuple[float, Choice]]:
        """Give, by name, what is pruned at all."""
        choices = {"embeddings": in_embeddings, "frontend": in_frontend}
        return {
            name: (getattr(self, name), choice) for name, choice in choices.items() if getattr(self, name)
        }

    def require(self, network: nn.Module) -> None:
        """Make sure that a network has what is to be pruned.

        Raises:
            BadInput: if not.
        """
        for name, (much, choose) in self.chosen().items():
            if not any(choose(*one) for one in matrices(network).items()):
                raise BadInput(f"others.{name} is {much}, and the network has no matrix there: set it to 0.0")


NONE = Others(embeddings=0.0, frontend=0.0)


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


def make(
    sparsity: float, pattern: Pattern, scope: Scope, score: str, schedule: Span, others: Others
) -> list[Pruning]:
    """Give the callbacks that a section describes; the first prunes the trunk.

    Raises:
        BadInput: if the pattern does not go with the sparsity or the scope.
    """
    if isinstance(pattern, NM) and scope != "layer":
        raise BadInput(f"{pattern.n}:{pattern.m} prunes all alike: scope must be layer, not {scope}")
    kind, allocate = (ScannedPruning, layerwise) if scope == "sensitivity" else (Pruning, SCOPES[scope])
    try:
        trunk = kind(sparsity, schedule, pattern, SCORES[score](), allocate, network="student")
        beside = [
            Pruning(much, schedule, network="student", choose=choice, name=f"sparsity_of_{name}")
            for name, (much, choice) in others.chosen().items()
        ]
    except ValueError as error:
        raise BadInput(str(error)) from error
    return [trunk, *beside]


def locks(notes: Mapping[str, Any]) -> list[PatternLock]:
    """Give the callbacks that hold the zeros of a network which was written with these notes."""
    others = Others(**notes.get("pattern", {}).get("others", asdict(NONE)))
    return [
        PatternLock("student"),
        *(PatternLock("student", pick, f"sparsity_of_{name}") for name, (_, pick) in others.chosen().items()),
    ]


def save(
    network: Encoder | Classifier, prunings: list[Pruning], out: Path, others: Others, **chosen: str
) -> None:
    """Write what was pruned, with the words that it was pruned by, and `layers.csv`.

    Raises:
        RuntimeError: if a zero is none.
    """
    for pruning in prunings:
        require_zeros(network, pruning.keep)
    trunk = prunings[0]
    pattern = {"sparsity": trunk.sparsity, **asdict(trunk.pruner.pattern), **chosen}
    if others.chosen():
        pattern["others"] = asdict(others)
    models.save(network, out, pattern=pattern)
    layers(prunings).to_csv(out / "layers.csv", index=False, float_format="%.6g")


def layers(prunings: list[Pruning]) -> pd.DataFrame:
    """Give a row for each pruned matrix: `name, weights, sparsity`, and its loss at each scanned level."""
    keep = {name: kept for pruning in prunings for name, kept in pruning.keep.items()}
    rows = [(name, kept.numel(), 1 - float(kept.double().mean())) for name, kept in keep.items()]
    table = pd.DataFrame(rows, columns=["name", "weights", "sparsity"])
    if isinstance(trunk := prunings[0], ScannedPruning):
        wide = trunk.table.pivot(index="name", columns="sparsity", values="loss").add_prefix("loss_at_")
        table = table.join(wide, on="name")
    return table
