"""What each step of compression took and left: samples learned from, weights, the work of a prediction."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from winnow.compress.sparsity import prunable
from winnow.ssl.model import Classifier

MEASURES = (
    "samples",
    "loss",
    "val/loss",
    "val/accuracy",
    "sparsity",
)  # that training has, where it logged them


class Work(NamedTuple):
    """What one prediction takes.

    Attributes:
        multiply_adds: of all products, zeros among them.
        rows: by name of a pruned matrix, the vectors that it is multiplied with.
    """

    multiply_adds: int
    rows: dict[str, int]

    def without(self, zeros: Mapping[str, int]) -> int:
        """Give the multiply-adds that are left for a kernel that leaves out so many zeros of each matrix."""
        return self.multiply_adds - sum(rows * zeros[name] for name, rows in self.rows.items())


@torch.inference_mode()
def work(model: Classifier, x: Tensor) -> Work:
    """Count the multiply-adds of a float classifier's matrices, convolutions and attention.

    Args:
        model: in evaluation mode.
        x: a batch of one sample. Padding is computed, too, so any other takes as much.
    """
    rows: dict[str, int] = {}
    hooks = []
    for name, weight in prunable(model).items():

        def count(_: nn.Module, __: object, y: Tensor, name: str = name, wide: int = weight.shape[0]) -> None:
            rows[name] = rows.get(name, 0) + y.numel() // wide

        hooks.append(model.get_submodule(name.rpartition(".")[0]).register_forward_hook(count))
    # A CPU's fused attention is no product that the counter knows.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(x)
    for hook in hooks:
        hook.remove()
    return Work(counter.get_total_flops() // 2, rows)


def zeros(model: nn.Module, names: Mapping[str, object]) -> dict[str, int]:
    """Count the zeros in some tensors of a model, floats or integers, by name."""
    held = model.state_dict()
    return {name: held[name].numel() - int(held[name].count_nonzero()) for name in names}


def weigh(
    floats: Mapping[str, Classifier], integers: Classifier, master: Classifier, x: Tensor
) -> dict[str, int]:
    """Count what every model has and does, as flat metrics.

    Args:
        floats: by name.
        integers: of `winnow.compress.integer`.
        master: the float weights behind them.
        x: samples, of which the first is run.

    Returns:
        For each, `int8` too: `_parameters`, `_nonzeros` of them, `_multiply_adds` of a prediction, and
        `_multiply_adds_kept`, those of weights that are not zero.
    """
    found: dict[str, int] = {}
    pairs = {name: (model, model) for name, model in floats.items()}
    for name, (model, whole) in {**pairs, "int8": (integers, master)}.items():
        done = work(whole, x[:1])
        parameters = dict(whole.named_parameters())
        number = sum(parameter.numel() for parameter in parameters.values())
        found |= {
            f"{name}_parameters": number,
            f"{name}_nonzeros": number - sum(zeros(model, parameters).values()),
            f"{name}_multiply_adds": done.multiply_adds,
            f"{name}_multiply_adds_kept": done.without(zeros(model, done.rows)),
        }
    return found


def layers(sparse: Classifier, integers: Classifier, folder: Path) -> pd.DataFrame:
    """Give a row for each matrix of the trunk: how much of it is zero, and what a scan found it to bear.

    Args:
        sparse: the pruned float model.
        integers: its int8 form, where rounding has made more zeros, and silent channels are gone.
        folder: of the stage that pruned; the scan stands in its `layers.csv`, if it made one.

    Returns:
        `name, weights, sparsity, int8_sparsity`, and after a scan `loss_at_0`, `loss_at_0.5`, …: the
        validation loss with this matrix alone at that sparsity.
    """
    weights, held = prunable(sparse), integers.state_dict()
    table = pd.DataFrame(
        {
            "name": list(weights),
            "weights": [weight.numel() for weight in weights.values()],
            "sparsity": zeros(sparse, weights).values(),
            "int8_sparsity": [w.numel() - int(held[name].count_nonzero()) for name, w in weights.items()],
        }
    )
    for column in ("sparsity", "int8_sparsity"):
        table[column] /= table["weights"]
    if (folder / "layers.csv").exists():
        scanned = pd.read_csv(folder / "layers.csv").set_index("name").filter(like="loss_at_")
        table = table.join(scanned, on="name")
    return table


def training(folders: Mapping[str, Path]) -> pd.DataFrame:
    """Put the histories of all models under each other.

    Args:
        folders: of the stages that made them, by name of the model, in order. One that nothing was trained
            in has no `history.csv`; one with a `sparsify.csv` went on from an encoder, whose history that is.

    Returns:
        A row for each logged step: `model, stage, step`, and of `MEASURES` what was logged.
    """
    found = [pd.DataFrame(columns=["model", "stage", "step"])]
    for model, folder in folders.items():
        for stage, path in (("sparsify", folder / "sparsify.csv"), (folder.name, folder / "history.csv")):
            if path.exists():
                rows = pd.read_csv(path)
                kept = rows[["step", *(name for name in MEASURES if name in rows)]]
                kept.insert(0, "stage", stage)
                kept.insert(0, "model", model)
                found.append(kept)
    table = pd.concat(found[1:] or found, ignore_index=True)
    # Counts stay counts, to the last digit, where a history has none.
    return table.astype({"samples": "Int64"}) if "samples" in table else table
