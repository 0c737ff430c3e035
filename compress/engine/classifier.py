"""An int8 classifier of winnow's in the engine: what it is made of, and how samples get in."""

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor, nn

from winnow.compress.engine import plan, running
from winnow.compress.integer import Integer
from winnow.ssl import trunk
from winnow.ssl.model import Classifier
from winnow.ssl.trunk import Encoder


class EngineClassifier:
    """A classifier of `winnow.compress.integer` that the engine runs; the frontend runs in torch.

    Args:
        model: the classifier.
        threads: that one run uses.
        instructions: one of `running.instructions()`; empty: the best.

    Raises:
        ValueError: if the engine has no form for a part of it.
        library.Unavailable: if the engine cannot be built here.
    """

    def __init__(self, model: Classifier, threads: int = 1, instructions: str = "") -> None:
        self.encoder = model.encoder.eval()
        self.engine = running.load(read(model.encoder, model.head), threads, instructions)

    @torch.inference_mode()
    def __call__(self, x: Tensor) -> Float32[np.ndarray, "batch class"]:
        """Give the logits of one batch."""
        return self.engine(*tokens(self.encoder, x))

    def logits(self, x: Tensor, batch_size: int) -> Float32[np.ndarray, "sample class"]:
        """Give the logits of many samples, batch by batch."""
        return np.concatenate([self(part) for part in x.split(batch_size)])


def tokens(encoder: Encoder, x: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Make of samples what the engine reads: tokens with their positions, behind the extra ones."""
    located = encoder.located(encoder.frontend(x))
    made, valid = encoder.surrounded(*located), located.valid
    if encoder.extra is not None:
        made = torch.cat([encoder.extra.expand(len(made), -1, -1), made], 1)
        valid = nn.functional.pad(valid, (encoder.shape.extra_tokens, 0), value=True)
    return made.numpy(), valid.numpy()


@torch.no_grad()
def read(encoder: Encoder, head: nn.Module | None) -> plan.Encoder:
    """Take an int8 encoder apart.

    Args:
        encoder: of a classifier of `winnow.compress.integer`.
        head: its; None: tokens come out.

    Raises:
        ValueError: if a layer is not quantized.
    """
    shape = encoder.shape
    last = None if encoder.output_norm is None else _norm(encoder.output_norm)
    grid = int(np.prod(encoder.modality.grid))
    return plan.Encoder(
        heads=shape.heads,
        tokens=grid + shape.extra_tokens,
        extra=shape.extra_tokens,
        pre_norm=shape.norm == "pre",
        eps=shape.norm_eps,
        layers=[_layer(layer) for layer in encoder.layers],
        biases=[relative(None)[0].numpy() for relative in encoder.relative],
        first=None if encoder.norm is None else _norm(encoder.norm),
        last=last,
        last_is_pooled=shape.output_norm == "pooled",
        head=None if head is None else _matrix(head, None),
    )


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
    )


def _matrix(layer: nn.Module, factor: Tensor | None) -> plan.Matrix:
    if not isinstance(layer, Integer):
        raise ValueError(f"the engine runs int8 layers, not {type(layer).__name__}")
    return plan.Matrix(
        weight=layer.weight.t().contiguous().numpy(),
        scale=layer.weight_scale.numpy(),
        bias=None if layer.bias is None else layer.bias.numpy(),
        input=plan.Levels(float(layer.input_scale), int(layer.input_zero_point)),
        factor=None if factor is None else factor.numpy(),
    )


def _norm(norm: nn.LayerNorm) -> plan.Norm:
    return plan.Norm(norm.weight.numpy(), norm.bias.numpy())
