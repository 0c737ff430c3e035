"""The networks that are kept: a Transformer trunk over tokens of any grid, a classifier on it; save and load.

Shapes: `token` counts the whole grid, `seen` the tokens that are run through the layers.
"""

import inspect
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from winnow.data import modality as modalities
from winnow.data import store
from winnow.data.modality import Modality, Tokens


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The size of a trunk.

    Attributes:
        dim: width of a token; divisible by 2 * axes of the grid and by `heads`.
        layers: Transformer layers.
        heads: attention heads of each.
        mlp_ratio: hidden width of the feed-forward part, in multiples of `dim`.
        dropout: probability, on each layer's two outputs.
        attention_dropout: the same on attention; above 0 it is slow, as no fused kernel of a CPU has it.
    """

    dim: int
    layers: int
    heads: int
    mlp_ratio: float
    dropout: float
    attention_dropout: float


class Encoded(NamedTuple):
    """What a trunk gives.

    Attributes:
        hidden: output of every layer, the last one last.
        taps: output of every layer's feed-forward part, before its residual: data2vec's targets.
        valid: False where a row was filled up.
    """

    hidden: list[Float[Tensor, "batch seen dim"]]
    taps: list[Float[Tensor, "batch seen dim"]]
    valid: Bool[Tensor, "batch seen"]


class Attention(nn.Module):
    """Multi-head self-attention of four plain Linears, which pruning and quantization can reach."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads, self.dropout = shape.heads, shape.attention_dropout
        self.query = nn.Linear(shape.dim, shape.dim)
        self.key = nn.Linear(shape.dim, shape.dim)
        self.value = nn.Linear(shape.dim, shape.dim)
        self.out = nn.Linear(shape.dim, shape.dim)

    def forward(
        self, x: Float[Tensor, "batch seen dim"], valid: Bool[Tensor, "batch seen"]
    ) -> Float[Tensor, "batch seen dim"]:
        q, k, v = (
            project(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [B, H, N, D/H]
            for project in (self.query, self.key, self.value)
        )
        mixed = functional.scaled_dot_product_attention(
            q, k, v, valid[:, None, None, :], self.dropout if self.training else 0.0
        )
        return self.out(mixed.transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """A post-norm Transformer layer, as in data2vec 2.0."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width = int(shape.dim * shape.mlp_ratio)
        self.attention = Attention(shape)
        self.norm1 = nn.LayerNorm(shape.dim)
        self.fc1 = nn.Linear(shape.dim, width)
        self.fc2 = nn.Linear(width, shape.dim)
        self.norm2 = nn.LayerNorm(shape.dim)
        self.dropout = nn.Dropout(shape.dropout)

    def forward(
        self, x: Float[Tensor, "batch seen dim"], valid: Bool[Tensor, "batch seen"]
    ) -> tuple[Float[Tensor, "batch seen dim"], Float[Tensor, "batch seen dim"]]:
        x = self.norm1(x + self.dropout(self.attention(x, valid)))
        tap = self.fc2(functional.gelu(self.fc1(x)))
        return self.norm2(x + self.dropout(tap)), tap


def sincos_positions(grid: tuple[int, ...], dim: int) -> Float[Tensor, "token dim"]:
    """Give every place of a grid its fixed code: a share of the channels for each axis.

    Raises:
        ValueError: if dim is not divisible by 2 * axes.

    Paper: Attention Is All You Need (Vaswani et al. 2017), section 3.5, per axis.
    """
    if dim % (2 * len(grid)):
        raise ValueError(f"dim {dim} is not divisible by {2 * len(grid)}, for the grid {grid}")
    share = dim // len(grid)
    frequency = 10_000.0 ** -(torch.arange(0, share, 2) / share)
    places = torch.cartesian_prod(*(torch.arange(side) for side in grid)).view(-1, len(grid))
    angle = places[:, :, None] * frequency  # [N, axes, share/2]
    return torch.cat([angle.sin(), angle.cos()], -1).flatten(1)


def gather_tokens(
    x: Float[Tensor, "batch token dim"], chosen: Bool[Tensor, "batch token"]
) -> tuple[Float[Tensor, "batch seen dim"], Bool[Tensor, "batch seen"], Int[Tensor, "batch seen"]]:
    """Keep each row's chosen tokens, in order; shorter rows are filled up with unchosen ones.

    Returns:
        The tokens, where they are chosen ones, and their places on the grid.
    """
    count = chosen.sum(1)
    place = chosen.int().argsort(dim=1, descending=True, stable=True)[:, : int(count.max())]
    seen = torch.arange(place.shape[1], device=x.device) < count[:, None]
    return x.gather(1, place[..., None].expand(-1, -1, x.shape[2])), seen, place


class Encoder(nn.Module):
    """The trunk: frontend, positions, layers. The student and the teacher of data2vec are two of it."""

    def __init__(self, modality: Modality, shape: Shape) -> None:
        super().__init__()
        if shape.dim % shape.heads:
            raise ValueError(f"dim {shape.dim} is not divisible by {shape.heads} heads")
        self.modality, self.shape = modality, shape
        self.frontend = modality.frontend(shape.dim)
        self.norm = nn.LayerNorm(shape.dim)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        positions = sincos_positions(modality.grid, shape.dim)
        self.register_buffer("positions", positions, persistent=False)
        self.layers.apply(_initialize)

    def tokens(self, x: Tensor) -> Tokens:
        """Give the tokens of a batch of x with their positions."""
        tokens = self.frontend(x)
        return Tokens(tokens.x + self.positions, tokens.valid)

    def run(self, x: Float[Tensor, "batch seen dim"], valid: Bool[Tensor, "batch seen"]) -> Encoded:
        """Run tokens through the layers."""
        x = self.norm(x)
        hidden, taps = [], []
        for layer in self.layers:
            x, tap = layer(x, valid)
            hidden.append(x)
            taps.append(tap)
        return Encoded(hidden, taps, valid)

    def forward(self, x: Tensor) -> Encoded:
        return self.run(*self.tokens(x))

    def embed(self, x: Tensor) -> Float[Tensor, "batch feature"]:
        """Give one vector per sample: every layer's mean token, side by side.

        Small data2vec models keep what a probe needs in the middle; the last layer alone misleads.
        """
        encoded = self(x)
        return torch.cat([pool(h, encoded.valid) for h in encoded.hidden], 1)


def pool(x: Float[Tensor, "batch seen dim"], valid: Bool[Tensor, "batch seen"]) -> Float[Tensor, "batch dim"]:
    """Average the valid tokens of each sample."""
    weight = valid.to(x.dtype)[..., None]
    return (x * weight).sum(1) / weight.sum(1).clamp(min=1)


class Classifier(nn.Module):
    """A trunk and a linear head on its mean token."""

    def __init__(self, encoder: Encoder, classes: list[str]) -> None:
        super().__init__()
        self.encoder, self.classes = encoder, classes
        self.head = nn.Linear(encoder.shape.dim, len(classes))

    def forward(self, x: Tensor) -> Float[Tensor, "batch class"]:
        encoded = self.encoder(x)
        return self.head(pool(encoded.hidden[-1], encoded.valid))


def set_dropout(encoder: Encoder, probability: float) -> None:
    """Change the dropout of a trunk's outputs: a short run with labels wants another than a long one."""
    for layer in encoder.layers:
        assert isinstance(layer, Layer)
        layer.dropout.p = probability


def _initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=1 / math.sqrt(module.in_features))
        nn.init.zeros_(module.bias)


def section(modality: Modality) -> dict[str, Any]:
    """Give the `class_path`/`init_args` section that a modality was made from."""
    kind = type(modality)
    names = [n for n in inspect.signature(kind).parameters]
    init_args = {name: getattr(modality, name) for name in names}
    return {"class_path": f"{kind.__module__}.{kind.__qualname__}", "init_args": init_args}


def save(model: Encoder | Classifier, directory: Path, **notes: Any) -> None:
    """Write `model.safetensors` and `config.json` into a folder.

    Args:
        model: what is kept.
        directory: an existing folder.
        **notes: what later stages should know besides (a sparsity pattern, say), as plain JSON.
    """
    encoder = model.encoder if isinstance(model, Classifier) else model
    config = {
        "modality": section(encoder.modality),
        "shape": asdict(encoder.shape),
        "classes": model.classes if isinstance(model, Classifier) else None,
        "notes": notes,
    }
    save_file(model.state_dict(), directory / "model.safetensors")
    store.write_json(directory / "config.json", config)


def load(directory: Path) -> Encoder | Classifier:
    """Read what `save` wrote, in evaluation mode.

    Raises:
        FileNotFoundError: if the folder holds no model.
        RuntimeError: if weights and architecture do not fit.
    """
    config = store.read_json(directory / "config.json")
    model: Encoder | Classifier
    model = encoder = Encoder(modalities.build(config["modality"]), Shape(**config["shape"]))
    if config["classes"] is not None:
        model = Classifier(encoder, config["classes"])
    model.load_state_dict(load_file(directory / "model.safetensors"))
    return model.eval()


def load_encoder(directory: Path) -> Encoder:
    """Read the trunk of whatever model a folder holds."""
    model = load(directory)
    return model.encoder if isinstance(model, Classifier) else model


def load_classifier(directory: Path) -> Classifier:
    """Read a classifier.

    Raises:
        ValueError: if the folder holds an encoder without a head.
    """
    model = load(directory)
    if not isinstance(model, Classifier):
        raise ValueError(f"{directory} holds an encoder without a head; finetune makes one")
    return model


def read_notes(directory: Path) -> dict[str, Any]:
    """Read the notes that were saved with a model."""
    return json.loads((directory / "config.json").read_text(encoding="utf-8"))["notes"]
