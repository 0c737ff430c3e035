"""The trunk: a Transformer over tokens of any grid. Switches cover the encoders that were published.

| | data2vec 2.0 | data2vec, speech and text | data2vec, vision |
|---|---|---|---|
| `norm` | post | post | pre |
| `layer_scale` | null | null | 1e-4 |
| `biases` | all | all | query, value |
| `attention_bias` | alibi on speech | none | shared_table |
| `extra_tokens` | 1 on images | 0 | 1 |

Shapes: `token` counts the whole grid, `seen` the tokens that are run through the layers.
"""

import math
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn
from torch.nn import functional

from winnow.data.modality import Modality, Tokens
from winnow.ssl import vit
from winnow.ssl.mixing import Mixing
from winnow.ssl.positions import Alibi, Convolutions, RelativeTable, sincos_positions
from winnow.ssl.shape import Shape
from winnow.ssl.tokens import pool

PROJECTIONS = ("query", "key", "value")


class Encoded(NamedTuple):
    """What a trunk gives, of the grid's tokens.

    Attributes:
        hidden: output of every layer, the last one last.
        taps: output of every layer's feed-forward part, before its residual: data2vec's targets.
        valid: False where a row was filled up.
        out: what heads read: the last layer's output, normalised if `output_norm` is `token`.
        extra: the same of the extra tokens.
    """

    hidden: list[Float[Tensor, "batch seen dim"]]
    taps: list[Float[Tensor, "batch seen dim"]]
    valid: Bool[Tensor, "batch seen"]
    out: Float[Tensor, "batch seen dim"]
    extra: Float[Tensor, "batch extra dim"]


class Attention(nn.Module):
    """Multi-head self-attention of four plain Linears, which pruning and quantization can reach.

    Args:
        shape: of the trunk.
        layer: whose heads it has.
    """

    def __init__(self, shape: Shape, layer: int = 0) -> None:
        super().__init__()
        self.kept = list(shape.sizes[layer].heads)
        self.heads, self.mixing = len(self.kept), Mixing(shape.attention_dropout)
        width = self.heads * (shape.dim // shape.heads)
        self.query, self.key, self.value = (
            nn.Linear(shape.dim, width, bias=name in shape.biases) for name in PROJECTIONS
        )
        self.out = nn.Linear(width, shape.dim)

    def forward(
        self,
        x: Float[Tensor, "batch seen dim"],
        allowed: Shaped[Tensor, "one_or_batch one_or_head one_or_seen seen"] | None = None,
    ) -> Float[Tensor, "batch seen dim"]:
        # Biases come for all heads that any layer has, as layers share them.
        if allowed is not None and allowed.shape[1] > self.heads:
            allowed = allowed[:, self.kept]
        q, k, v = (
            project(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [B, H, N, D/H]
            for project in (self.query, self.key, self.value)
        )
        mixed = self.mixing(q, k, v, allowed)
        return self.out(mixed.transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """A Transformer layer: attention and a feed-forward part, each beside a residual.

    Args:
        shape: of the trunk.
        drop_path: probability that a sample skips a part.
        layer: its number in the trunk.
    """

    def __init__(self, shape: Shape, drop_path: float, layer: int = 0) -> None:
        super().__init__()
        width = shape.sizes[layer].channels
        self.post = shape.norm == "post"
        self.attention = Attention(shape, layer)
        self.norm1 = nn.LayerNorm(shape.dim, eps=shape.norm_eps)
        self.fc1 = nn.Linear(shape.dim, width)
        self.fc2 = nn.Linear(width, shape.dim)
        self.norm2 = nn.LayerNorm(shape.dim, eps=shape.norm_eps)
        self.dropout = nn.Dropout(shape.dropout)
        self.drop_path = _drop_path(drop_path)
        self.scale1, self.scale2 = (
            None if shape.layer_scale is None else nn.Parameter(torch.full((shape.dim,), shape.layer_scale))
            for _ in range(2)
        )

    def forward(
        self,
        x: Float[Tensor, "batch seen dim"],
        allowed: Shaped[Tensor, "one_or_batch one_or_head one_or_seen seen"] | None = None,
    ) -> tuple[Float[Tensor, "batch seen dim"], Float[Tensor, "batch seen dim"]]:
        if self.post:
            x = self.norm1(x + self._part(self.attention(x, allowed), self.scale1))
            tap = self.fc2(functional.gelu(self.fc1(x)))
            return self.norm2(x + self._part(tap, self.scale2)), tap
        x = x + self._part(self.attention(self.norm1(x), allowed), self.scale1)
        tap = self.fc2(functional.gelu(self.fc1(self.norm2(x))))
        return x + self._part(tap, self.scale2), tap

    def _part(self, y: Tensor, scale: Tensor | None) -> Tensor:
        y = self.dropout(y)
        return self.drop_path(y if scale is None else scale * y)


def _drop_path(probability: float) -> nn.Module:
    if not probability:
        return nn.Identity()
    from timm.layers import DropPath  # takes half a second, which no other trunk should wait for

    return DropPath(probability)


def _allowed(
    valid: Bool[Tensor, "batch seen"], biases: list[Float[Tensor, "one_or_batch head seen seen"]]
) -> list[Tensor] | list[None]:
    """Give what attention is told of each layer, or of all: the bias, and what is padding if there is any."""
    among = valid[:, None, None, :]
    # Without a mask attention is faster. What is compiled or exported has one: it will see other samples.
    if not torch.compiler.is_compiling() and bool(valid.all()):
        return biases or [None]
    return [bias.masked_fill(~among, -math.inf) for bias in biases] or [among]


class Encoder(nn.Module):
    """Frontend, positions, layers. The student and the teacher of data2vec are two of it.

    Attributes:
        dim: width of a token.
        extra_tokens: how many stand in front of the grid.

    Raises:
        ValueError: if widths do not divide, `biases` names no projection, or timm's model does not fit.
    """

    def __init__(self, modality: Modality, shape: Shape | vit.TimmShape) -> None:
        super().__init__()
        self.modality = modality
        if isinstance(shape, vit.TimmShape):
            # What it is, and not where it started: an untrained twin starts at random.
            self.shape: Shape | vit.TimmShape = replace(shape, weights=None)
            for name, part in vit.parts(modality, shape)._asdict().items():
                setattr(self, name, part)
            return
        if shape.dim % shape.heads:
            raise ValueError(f"dim {shape.dim} is not divisible by {shape.heads} heads")
        if unknown := set(shape.biases) - set(PROJECTIONS):
            raise ValueError(f"biases name {sorted(unknown)}; there are {', '.join(PROJECTIONS)}")
        self.shape, self.drop_layer, self.normed = shape, shape.drop_layer, shape.output_norm
        self.dim, self.extra_tokens, grid, dim = shape.dim, shape.extra_tokens, modality.grid, shape.dim
        self.frontend = modality.frontend(dim)
        self.position_norm = nn.LayerNorm(dim, eps=shape.norm_eps) if shape.position_norm else None
        self.norm = nn.LayerNorm(dim, eps=shape.norm_eps) if shape.norm == "post" else None
        self.output_norm = nn.LayerNorm(dim, eps=shape.norm_eps) if shape.output_norm != "none" else None
        self.dropout = nn.Dropout(shape.input_dropout)
        paths = torch.linspace(0, shape.drop_path, shape.layers).tolist()
        self.layers = nn.ModuleList(Layer(shape, path, layer) for layer, path in enumerate(paths))
        if shape.positions == "sincos":
            self.register_buffer("positions", sincos_positions(grid, dim), persistent=False)
        else:
            learned = shape.positions == "learned"
            self.positions = nn.Parameter(0.02 * torch.randn(math.prod(grid), dim)) if learned else None
        self.convolutions = (
            None if shape.convolutions is None else Convolutions(grid, dim, shape.convolutions)
        )
        self.extra = nn.Parameter(torch.randn(shape.extra_tokens, dim)) if shape.extra_tokens else None
        number = {"none": 0, "layer_table": shape.layers}.get(shape.attention_bias, 1)
        kind = Alibi if shape.attention_bias == "alibi" else RelativeTable
        self.relative = nn.ModuleList(kind(grid, shape.heads, shape.extra_tokens) for _ in range(number))
        self.layers.apply(_initialize)

    def located(self, tokens: Tokens) -> Tokens:
        """Add to tokens what says where they stand, whatever is around them."""
        x = tokens.x if self.positions is None else tokens.x + self.positions
        return Tokens(x if self.position_norm is None else self.position_norm(x), tokens.valid)

    def surrounded(self, x: Float[Tensor, "batch token dim"], known: Bool[Tensor, "batch token"]) -> Tensor:
        """Add to tokens what known ones around them say, if the trunk has convolutions."""
        if self.convolutions is None:
            return x
        return x + self.convolutions(x * known[..., None])

    def encode(self, tokens: Tokens) -> Encoded:
        """Run all of the frontend's tokens through the layers."""
        located = self.located(tokens)
        return self.run(self.surrounded(*located), located.valid)

    def run(
        self,
        x: Float[Tensor, "batch seen dim"],
        valid: Bool[Tensor, "batch seen"],
        place: Int[Tensor, "batch seen"] | None = None,
    ) -> Encoded:
        """Run tokens through the layers.

        Args:
            x: the tokens, with all that says where they stand.
            valid: False where a row was filled up.
            place: on the grid; None for all of them, in order.
        """
        extra = self.extra_tokens
        if self.extra is not None:
            x = torch.cat([self.extra.expand(x.shape[0], -1, -1), x], 1)
            valid = functional.pad(valid, (extra, 0), value=True)
            if place is not None:
                front = torch.arange(extra, device=x.device).expand(x.shape[0], -1)
                place = torch.cat([front, place + extra], 1)
        if self.norm is not None:
            x = self.norm(x)
        x = self.dropout(x)
        around = [relative(place) for relative in self.relative]
        rotations = around if isinstance(self.shape, vit.TimmShape) else []
        allowed = _allowed(valid, [] if rotations else around)
        hidden, taps = [], []
        for number, layer in enumerate(self.layers):
            if self._skips():
                continue
            x, tap = layer(x, allowed[min(number, len(allowed) - 1)], *rotations)
            hidden.append(x)
            taps.append(tap)
        if self.output_norm is not None and self.normed == "token":
            x = self.output_norm(x)
        if not extra:
            return Encoded(hidden, taps, valid, x, x[:, :0])
        hidden, taps = ([tokens[:, extra:] for tokens in of_layers] for of_layers in (hidden, taps))
        return Encoded(hidden, taps, valid[:, extra:], x[:, extra:], x[:, :extra])

    def _skips(self) -> bool:
        return self.training and self.drop_layer > 0 and float(torch.rand(())) < self.drop_layer

    def forward(self, x: Tensor) -> Encoded:
        return self.encode(self.frontend(x))

    def pooled(self, encoded: Encoded) -> Float[Tensor, "batch dim"]:
        """Give what a head reads: the mean token of the output."""
        mean = pool(encoded.out, encoded.valid)
        if self.output_norm is not None and self.normed == "pooled":
            return self.output_norm(mean)
        return mean

    def embed(self, x: Tensor) -> Float[Tensor, "batch feature"]:
        """Give one vector per sample: every layer's mean token, side by side.

        Small data2vec models keep what a probe needs in the middle; the last layer alone misleads.
        """
        encoded = self(x)
        return torch.cat([pool(h, encoded.valid) for h in encoded.hidden], 1)


def set_dropout(encoder: Encoder, probability: float) -> None:
    """Change the dropout of the layers' outputs: a short run with labels wants another than a long one."""
    for name, module in encoder.layers.named_modules():
        if isinstance(module, nn.Dropout) and not name.endswith("attn_drop"):
            module.p = probability


def _initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=1 / math.sqrt(module.in_features))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
