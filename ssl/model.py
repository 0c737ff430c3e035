"""The networks that are kept: an encoder, or a classifier or another head on it; save and load."""

import inspect
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from winnow.data import modality as modalities
from winnow.data import store
from winnow.data.modality import Modality
from winnow.ssl.heads import Recognizer, Regressor, Tagger
from winnow.ssl.positions import ConvolutionShape
from winnow.ssl.shape import LayerSize, Shape, SlicedShape
from winnow.ssl.trunk import Encoder
from winnow.ssl.vit import TimmShape


class Classifier(nn.Module):
    """A trunk and a linear head on its mean token."""

    def __init__(self, encoder: Encoder, classes: list[str]) -> None:
        super().__init__()
        self.encoder, self.classes = encoder, classes
        self.head = nn.Linear(encoder.dim, len(classes))

    def forward(self, x: Tensor) -> Float[Tensor, "batch class"]:
        encoded = self.encoder(x)
        return self.head(self.encoder.pooled(encoded))


Model = Encoder | Classifier | Recognizer | Regressor | Tagger
_HEADS = {kind.__name__: kind for kind in (Recognizer, Regressor, Tagger)}


def section(modality: Modality) -> dict[str, Any]:
    """Give the `class_path`/`init_args` section that a modality was made from."""
    kind = type(modality)
    names = [n for n in inspect.signature(kind).parameters]
    init_args = {name: getattr(modality, name) for name in names}
    return {"class_path": f"{kind.__module__}.{kind.__qualname__}", "init_args": init_args}


def require_modality(role: str, encoder: Encoder, modality: Modality) -> None:
    """Make sure that an encoder reads what these samples are.

    Raises:
        ValueError: if it was made for others: an imported one comes with a modality of its own.
    """
    made_for, given = section(encoder.modality), section(modality)
    if made_for != given:
        raise ValueError(f"the {role} reads {made_for}, not {given}: params.yaml's modality must be the same")


def save(model: Model, directory: Path, **notes: Any) -> None:
    """Write `model.safetensors` and `config.json` into a folder.

    Args:
        model: what is kept.
        directory: an existing folder.
        **notes: what later stages should know besides (a sparsity pattern, say), as plain JSON.
    """
    encoder = model if isinstance(model, Encoder) else model.encoder
    config = {
        "modality": section(encoder.modality),
        "shape": asdict(encoder.shape),
        "classes": None if isinstance(model, Encoder) else model.classes,
        "notes": notes,
    }
    if not isinstance(model, Encoder | Classifier):
        config["head"] = {"kind": type(model).__name__, **model.arguments}
    weights = {name: whole(weight) for name, weight in model.state_dict().items()}
    save_file(weights, directory / "model.safetensors")
    store.write_json(directory / "config.json", config)


def whole(weight: Tensor) -> Tensor:
    """Put a weight together that `trainer.strategy: fsdp` has spread; all processes have to ask for it."""
    return weight.full_tensor() if hasattr(weight, "full_tensor") else weight


def build(config: dict[str, Any]) -> Model:
    """Make the network that a `config.json` describes, with random weights."""
    encoder = Encoder(modalities.build(config["modality"]), _shape(dict(config["shape"])))
    if "head" in config:
        arguments = dict(config["head"])
        return _HEADS[arguments.pop("kind")](encoder, config["classes"], **arguments)
    return encoder if config["classes"] is None else Classifier(encoder, config["classes"])


def load(directory: Path) -> Model:
    """Read what `save` wrote, in evaluation mode.

    Raises:
        FileNotFoundError: if the folder holds no model.
        RuntimeError: if weights and architecture do not fit.
    """
    model = build(store.read_json(directory / "config.json"))
    model.load_state_dict(load_file(directory / "model.safetensors"))
    return model.eval()


def _shape(section: dict[str, Any]) -> Shape | TimmShape:
    if "timm" in section:
        blocks = section.pop("blocks")
        return TimmShape(blocks=None if blocks is None else tuple(blocks), **section)
    biases, convolutions = section.pop("biases"), section.pop("convolutions")
    around = None if convolutions is None else ConvolutionShape(**convolutions)
    plain: dict[str, Any] = {"biases": tuple(biases), "convolutions": around, **section}
    if "slices" not in plain:
        return Shape(**plain)
    slices = [
        LayerSize(heads=tuple(left["heads"]), channels=left["channels"]) for left in plain.pop("slices")
    ]
    return SlicedShape(slices=tuple(slices), **plain)


def load_encoder(directory: Path) -> Encoder:
    """Read the trunk of whatever model a folder holds."""
    model = load(directory)
    return model if isinstance(model, Encoder) else model.encoder


def load_classifier(directory: Path) -> Classifier:
    """Read a classifier.

    Raises:
        ValueError: if the folder holds an encoder without a head, or with another one.
    """
    model = load(directory)
    if not isinstance(model, Classifier):
        held = "an encoder without a head" if isinstance(model, Encoder) else f"a {type(model).__name__}"
        raise ValueError(f"{directory} holds {held}; finetune makes a classifier")
    return model


def read_notes(directory: Path) -> dict[str, Any]:
    """Read the notes that were saved with a model."""
    return json.loads((directory / "config.json").read_text(encoding="utf-8"))["notes"]
