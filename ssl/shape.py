"""The size of a trunk, and its switches."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from winnow.ssl.positions import ConvolutionShape


@dataclass(frozen=True, kw_only=True)
class LayerSize:
    """What a layer has.

    Attributes:
        heads: of attention, by their numbers among those that `Shape.heads` counts.
        channels: of the feed-forward part.
    """

    heads: tuple[int, ...]
    channels: int


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The size of a trunk, and its switches.

    Attributes:
        dim: width of a token; divisible by `heads`, and for `sincos` by 2 * axes of the grid.
        layers: Transformer layers.
        heads: attention heads of each.
        mlp_ratio: hidden width of the feed-forward part, in multiples of `dim`.
        norm: where a layer normalises: `post`, behind each residual sum, or `pre`, in front of each part.
        norm_eps: that norms add to the variance.
        position_norm: normalise tokens as soon as positions are added (data2vec 2.0, text).
        output_norm: once more at the end: each `token`, the `pooled` one, or `none`.
        layer_scale: start of the factors on each layer's two outputs; null: there are none.
        biases: which of the projections query, key and value have one.
        positions: that are added to tokens: `sincos`, `learned` or `none`.
        convolutions: that add what is around a token to it; null: there are none.
        attention_bias: by the offset of two tokens: a `shared_table`, one in each layer (`layer_table`),
            `alibi`, or `none`.
        extra_tokens: learned ones in front of the grid.
        input_dropout: probability, on what the layers read.
        dropout: the same on each layer's two outputs.
        attention_dropout: the same on attention; above 0 it is slow, as no fused kernel of a CPU has it.
        drop_path: probability that a sample skips a part of the last layer; rises to it from 0.
        drop_layer: probability that a batch skips a layer.
    """

    dim: int
    layers: int
    heads: int
    mlp_ratio: float
    norm: Literal["post", "pre"]
    norm_eps: float
    position_norm: bool
    output_norm: Literal["token", "pooled", "none"]
    layer_scale: float | None
    biases: tuple[str, ...]
    positions: Literal["sincos", "learned", "none"]
    convolutions: ConvolutionShape | None
    attention_bias: Literal["shared_table", "layer_table", "alibi", "none"]
    extra_tokens: int
    input_dropout: float
    dropout: float
    attention_dropout: float
    drop_path: float
    drop_layer: float

    @property
    def sizes(self) -> tuple[LayerSize, ...]:
        """What each layer has."""
        whole = LayerSize(heads=tuple(range(self.heads)), channels=int(self.dim * self.mlp_ratio))
        return (whole,) * self.layers

    def keeping(self, layers: list[int]) -> "Shape":
        """Give the shape of a trunk with these layers only."""
        return replace(self, layers=len(layers))

    def cut(self, slices: Sequence[LayerSize]) -> "SlicedShape":
        """Give the shape of a trunk with this much of each layer only."""
        return SlicedShape(**{**vars(self), "slices": tuple(slices)})


@dataclass(frozen=True, kw_only=True)
class SlicedShape(Shape):
    """The size of a trunk from whose layers heads and channels were cut away (`winnow.compress.slicing`).

    `heads` and `mlp_ratio` are what a layer had: a head keeps its width, and its place among the slopes and
    tables of attention's biases, which layers share.

    Attributes:
        slices: what is left of each layer.

    Raises:
        ValueError: if they are not one for each layer, or have what was not there, or nothing.
    """

    slices: tuple[LayerSize, ...]

    def __post_init__(self) -> None:
        if len(self.slices) != self.layers:
            raise ValueError(f"shape.slices has {len(self.slices)} entries, shape.layers is {self.layers}")
        most = int(self.dim * self.mlp_ratio)
        for number, size in enumerate(self.slices):
            heads, where = list(size.heads), f"in entry {number} of shape.slices"
            if not heads or heads != sorted(set(heads)) or heads[0] < 0 or heads[-1] >= self.heads:
                raise ValueError(f"heads {heads} {where} must ascend within 0 to {self.heads - 1}")
            if not 0 < size.channels <= most:
                raise ValueError(f"channels {size.channels} {where} must be 1 to {most}")

    @property
    def sizes(self) -> tuple[LayerSize, ...]:
        return self.slices

    def keeping(self, layers: list[int]) -> "SlicedShape":
        """Give the shape of a trunk with these layers only."""
        return replace(self, layers=len(layers), slices=tuple(self.slices[number] for number in layers))
