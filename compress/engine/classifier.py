"""An int8 classifier of winnow's in the engine: what it is made of, and how samples get in."""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor, nn

from winnow.compress.engine import plan, running
from winnow.compress.integer import Integer, IntegerEmbedding, IntegerMixing
from winnow.compress.runtimes import Answer
from winnow.ssl import trunk
from winnow.ssl.model import Classifier
from winnow.ssl.trunk import Encoder

Rows = Callable[[Tensor], np.ndarray]


class EngineClassifier:
    """A `Runtime`: the engine runs a classifier of `winnow.compress.integer`, from samples to logits.

    Frontends of patches, frames or ids run in the engine too, others in torch.

    Args:
        model: the classifier.
        threads: that one run uses.
        instructions: one of `running.instructions()`; empty: the best.

    Raises:
        ValueError: if the engine has no form for a part of it.
        library.Unavailable: if the engine cannot be built here.
    """

    name: ClassVar[str] = "engine"

    def __init__(self, model: Classifier, threads: int = 1, instructions: str = "") -> None:
        self.encoder = model.encoder.eval()
        ours = isinstance(self.encoder.shape, trunk.Shape)  # `read` says what is wrong with others
        if ours and not any(isinstance(module, Integer) for module in model.modules()):
            raise ValueError("the engine runs int8 models: this one is not quantized")
        found = read_input(self.encoder)
        self.rows = None if found is None else found[1]
        given = None if found is None else found[0]
        self.engine = running.load(read(self.encoder, model.head, given), threads, instructions)

    def __call__(self, x: Tensor) -> Answer:
        """Run one batch."""
        if self.rows is not None:
            return Answer(*self.engine.samples(self.rows(x)))
        return Answer(*self.engine.tokens(*tokens(self.encoder, x)))

    def logits(self, x: Tensor, batch_size: int) -> Float32[np.ndarray, "sample class"]:
        """Give the logits of many samples, batch by batch."""
        return np.concatenate([self(part).logits for part in x.split(batch_size)])


@torch.inference_mode()
def tokens(encoder: Encoder, x: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Make of samples what the engine reads: tokens with their positions, behind the extra ones."""
    located = encoder.located(encoder.frontend(x))
    made, valid = encoder.surrounded(*located), located.valid
    if encoder.extra is not None:
        made = torch.cat([encoder.extra.expand(len(made), -1, -1), made], 1)
        valid = nn.functional.pad(valid, (encoder.extra_tokens, 0), value=True)
    return made.numpy(), valid.numpy()


@torch.no_grad()
def read_input(encoder: Encoder) -> tuple[plan.Input, Rows] | None:
    """Take a frontend apart, and say how a batch becomes what the engine takes.

    What a frontend is shows in what it has: nothing but a table, a Linear over rows, or a convolution whose
    patches do not overlap.

    Returns:
        None if it is something else, or trunk or frontend have a part that only torch runs.
    """
    frontend: Any = encoder.frontend
    parts = dict(frontend.named_children())
    if not isinstance(encoder.shape, trunk.Shape) or encoder.convolutions is not None or len(parts) != 1:
        return None
    made: plan.Rows | plan.Table
    rows: Rows
    if isinstance(table := parts.get("embedding"), IntegerEmbedding):
        scale = table.weight_scale.flatten().numpy()
        made, rows = plan.Table(table.weight.numpy(), scale, frontend.padding), lambda x: x.numpy()
    elif "project" in parts and (cut := _cut(frontend, encoder.modality.grid)):
        matrix, rows, nothing = cut
        made = plan.Rows(matrix, padded=not frontend(nothing).valid.all())
    else:
        return None
    positions = None if encoder.positions is None else encoder.positions.numpy()
    norm = None if encoder.position_norm is None else _norm(encoder.position_norm)
    front = None if encoder.extra is None else encoder.extra.numpy()
    return plan.Input(made, positions, norm, front), rows


def _cut(frontend: nn.Module, grid: tuple[int, ...]) -> tuple[plan.Matrix, Rows, Tensor] | None:
    """Say how a frontend's matrix meets a batch.

    Returns:
        The matrix, what cuts a batch into rows of its columns, and a sample of zeros; None if each token
        does not have numbers of its own.
    """
    project, tokens = frontend.project, int(np.prod(grid))
    assert isinstance(project, Integer)
    if project.axis:
        frames = int(getattr(frontend, "frames_per_token", 1))
        columns = len(project.weight)
        return (
            _matrix(project, None),
            lambda x: x.numpy().reshape(len(x), tokens, columns),
            torch.zeros(1, tokens * frames, columns // frames),
        )
    if project.weight.dim() != 4 or len(grid) != 2:
        return None
    channels, high, wide = project.weight.shape[1:]
    plain = {"stride": (high, wide), "padding": (0, 0), "dilation": (1, 1), "groups": 1}
    if not isinstance(project.operation, partial) or project.operation.keywords != plain:
        return None

    def patches(x: Tensor) -> np.ndarray:
        cut = x.numpy().reshape(len(x), channels, grid[0], high, grid[1], wide)
        return cut.transpose(0, 2, 4, 1, 3, 5).reshape(len(x), tokens, -1)

    return _matrix(project, None), patches, torch.zeros(1, channels, grid[0] * high, grid[1] * wide)


@torch.no_grad()
def read(encoder: Encoder, head: nn.Module | None, given: plan.Input | None = None) -> plan.Encoder:
    """Take an int8 encoder apart.

    Args:
        encoder: of a classifier of `winnow.compress.integer`.
        head: its; None: tokens come out.
        given: its frontend; None: it runs elsewhere.

    Raises:
        ValueError: if a layer is not quantized, or the trunk is one of timm's.
    """
    shape = encoder.shape
    if not isinstance(shape, trunk.Shape):
        raise ValueError(f"the engine runs winnow's own trunks, not timm's {shape.timm}")
    last = None if encoder.output_norm is None else _norm(encoder.output_norm)
    grid = int(np.prod(encoder.modality.grid))
    return plan.Encoder(
        heads=shape.heads,
        tokens=grid + shape.extra_tokens,
        extra=shape.extra_tokens,
        pre_norm=shape.norm == "pre",
        eps=shape.norm_eps,
        layers=[_layer(layer) for layer in encoder.layers],
        biases=_biases(encoder, shape),
        first=None if encoder.norm is None else _norm(encoder.norm),
        last=last,
        last_is_pooled=shape.output_norm == "pooled",
        head=None if head is None else _matrix(head, None),
        input=given,
    )


def _biases(encoder: Encoder, shape: trunk.Shape) -> list[np.ndarray]:
    """Give attention's biases: one for all layers if they have the same heads, else one for each."""
    whole = [relative(None)[0].numpy() for relative in encoder.relative]
    kept = [list(size.heads) for size in shape.sizes]
    if not whole or all(len(heads) == shape.heads for heads in kept):
        return whole
    return [whole[number % len(whole)][heads] for number, heads in enumerate(kept)]


def _layer(layer: nn.Module) -> plan.Layer:
    assert isinstance(layer, trunk.Layer)
    attention = layer.attention
    return plan.Layer(
        query=_matrix(attention.query, None),
        key=_matrix(attention.key, None),
        value=_matrix(attention.value, None),
        out=_matrix(attention.out, layer.scale1),
        norm1=_norm(layer.norm1),
        fc1=_matrix(layer.fc1, None),
        fc2=_matrix(layer.fc2, layer.scale2),
        norm2=_norm(layer.norm2),
        levels=_levels(attention.mixing),
    )


def _levels(mixing: nn.Module) -> tuple[plan.Levels, plan.Levels, plan.Levels] | None:
    """Say what the levels of query, key and value stand for; None: they are floats."""
    if not isinstance(mixing, IntegerMixing):
        return None
    return (
        plan.Levels(float(mixing.query_scale), int(mixing.query_zero_point)),
        plan.Levels(float(mixing.key_scale), int(mixing.key_zero_point)),
        plan.Levels(float(mixing.value_scale), int(mixing.value_zero_point)),
    )


def _matrix(layer: nn.Module, factor: Tensor | None) -> plan.Matrix:
    if not isinstance(layer, Integer):
        raise ValueError(f"the engine runs int8 layers, not {type(layer).__name__}")
    weight = layer.weight.t().contiguous() if layer.axis else layer.weight.flatten(1)
    return plan.Matrix(
        weight=weight.numpy(),
        scale=layer.weight_scale.numpy(),
        bias=None if layer.bias is None else layer.bias.numpy(),
        input=plan.Levels(float(layer.input_scale), int(layer.input_zero_point)),
        factor=None if factor is None else factor.numpy(),
    )


def _norm(norm: nn.LayerNorm) -> plan.Norm:
    return plan.Norm(norm.weight.numpy(), norm.bias.numpy())
