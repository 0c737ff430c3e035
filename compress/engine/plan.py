"""int8 matrices and encoders → bytes that the engine reads (plan.h). Nothing of torch is in here."""

import struct
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float32, Int8, Int32

MAGIC = b"WNP2"
BLOCKS = (1, 2, 4)  # rows of a block; each is 4 columns wide
DENSE = 0
# Relative time of a weight in blocks of so many rows. A dense matrix does without indices; what else a block
# of few rows costs is that each vector of activations is read for so few products, which matters where a
# product is one instruction, and less where it is three (AVX2). Measured by bench/engine.py.
COST = {DENSE: 1.0, 4: 1.25, 2: 1.5, 1: 2.3}
COSTS = {"avx2": {DENSE: 1.0, 4: 1.2, 2: 1.25, 1: 1.35}}  # where it is another


@dataclass(frozen=True)
class Levels:
    """Which numbers uint8 stand for: scale * (level - zero_point)."""

    scale: float
    zero_point: int


@dataclass(frozen=True)
class Matrix:
    """An int8 Linear.

    Attributes:
        weight: [row, column].
        scale: of each row.
        bias: in steps of the input's scale * the row's.
        input: what the input's levels stand for.
        factor: on each output besides (LayerScale); None: there is none.
    """

    weight: Int8[np.ndarray, "row column"]
    scale: Float32[np.ndarray, " row"]
    bias: Int32[np.ndarray, " row"] | None
    input: Levels
    factor: Float32[np.ndarray, " row"] | None = None


@dataclass(frozen=True)
class Norm:
    """A LayerNorm."""

    gain: Float32[np.ndarray, " dim"]
    shift: Float32[np.ndarray, " dim"]


@dataclass(frozen=True)
class Layer:
    """A Transformer layer; `levels` are those of query, key and value in integer attention."""

    query: Matrix
    key: Matrix
    value: Matrix
    out: Matrix
    norm1: Norm
    fc1: Matrix
    fc2: Matrix
    norm2: Norm
    levels: tuple[Levels, Levels, Levels] | None = None


@dataclass(frozen=True)
class Rows:
    """An input of rows of numbers, each of which a matrix makes a token of.

    Attributes:
        project: the matrix.
        padded: rows of zeros are no valid tokens, if they are not a sample's first.
    """

    project: Matrix
    padded: bool


@dataclass(frozen=True)
class Table:
    """An input of ids, each of which has its row.

    Attributes:
        weight: the rows.
        scale: of each.
        padding: the id that is no valid token, if it is not a sample's first.
    """

    weight: Int8[np.ndarray, "id dim"]
    scale: Float32[np.ndarray, " id"]
    padding: int


@dataclass(frozen=True)
class Input:
    """How samples become tokens.

    Attributes:
        tokens: of what.
        positions: that are added to them, for each of a sample.
        norm: behind that.
        front: the extra tokens.
    """

    tokens: Rows | Table
    positions: Float32[np.ndarray, "token dim"] | None
    norm: Norm | None
    front: Float32[np.ndarray, "extra dim"] | None


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """All that happens between tokens and logits.

    Attributes:
        heads: of attention, before any was cut away: dim / heads is the width of each that is left.
        tokens: most of a sample; exactly so many, if there are biases.
        extra: of them, in front, that are not pooled.
        pre_norm: layers normalise in front of their parts, not behind.
        eps: of norms.
        layers: in order.
        biases: of attention, [head, query, key]; none, one, or one for each layer, of the heads that it has.
        first: norm in front of the layers.
        last: norm behind them.
        last_is_pooled: it normalises the mean token instead.
        head: of a classifier; without one, tokens come out.
        input: how samples become tokens; without one, tokens go in, the extra ones with them.
    """

    heads: int
    tokens: int
    extra: int
    pre_norm: bool
    eps: float
    layers: list[Layer]
    biases: list[Float32[np.ndarray, "_ query key"]] = field(default_factory=list)
    first: Norm | None = None
    last: Norm | None = None
    last_is_pooled: bool = False
    head: Matrix | None = None
    input: Input | None = None

    @property
    def dim(self) -> int:
        return self.layers[0].query.weight.shape[1]


def pack(matrix: Matrix, block: int | None = None, instructions: str = "") -> bytes:
    """Write a matrix as the engine reads it; rows and columns are filled up to multiples of 4.

    Args:
        matrix: with any zeros.
        block: rows of a block, or `DENSE`; None: what promises to be fastest.
        instructions: what will run it, for that promise.
    """
    rows, columns = matrix.weight.shape
    weight = np.zeros((-(-rows // 4) * 4, -(-columns // 4) * 4), np.int8)
    weight[:rows, :columns] = matrix.weight
    if block is None:
        block = fastest(weight, instructions)
    scale, bias = np.zeros(len(weight), np.float32), np.zeros(len(weight), np.int32)
    scale[:rows] = np.float32(matrix.input.scale) * matrix.scale
    if matrix.factor is not None:
        scale[:rows] *= matrix.factor
    if matrix.bias is not None:
        bias[:rows] = matrix.bias
    head = struct.pack("<IIIfI", *weight.shape, block, matrix.input.scale, matrix.input.zero_point)
    blocks = _blocks(weight, block or 4)
    if block == DENSE:
        return b"".join([head, scale.tobytes(), bias.tobytes(), blocks.tobytes()])
    keep = np.any(blocks, axis=(2, 3))
    start = np.concatenate([[0], keep.sum(1).cumsum()]).astype(np.uint32)
    index = np.nonzero(keep)[1].astype(np.uint16)
    parts = (scale, bias, np.uint32(len(index)), start, index, blocks[keep])
    return head + b"".join(_filled(np.asarray(part).tobytes()) for part in parts)


def fastest(weight: Int8[np.ndarray, "row column"], instructions: str = "") -> int:
    """Choose the blocks that take least time, by what of a matrix they cover."""
    cost = COSTS.get(instructions, COST)
    time = {DENSE: cost[DENSE] * weight.size}
    for block in BLOCKS:
        time[block] = cost[block] * np.count_nonzero(_blocks(weight, block).any((2, 3))) * block * 4
    return min(time, key=lambda block: time[block])


def _blocks(weight: np.ndarray, rows: int) -> np.ndarray:
    high, wide = weight.shape
    return weight.reshape(high // rows, rows, wide // 4, 4).swapaxes(1, 2)  # [band, place, row, 4]


def _filled(content: bytes) -> bytes:
    return content + bytes(-len(content) % 4)


def write(encoder: Encoder, block: int | None = None, instructions: str = "") -> bytes:
    """Write an encoder as the engine reads it.

    Args:
        encoder: all of it.
        block: of all matrices of its layers; None: what promises to be fastest, for each.
        instructions: what will run it, for that promise.

    Raises:
        ValueError: if only some layers have levels for integer attention.
    """
    integer = {layer.levels is not None for layer in encoder.layers}
    if len(integer) > 1:
        raise ValueError("attention is either of integers in all layers, or in none")
    output = 0 if encoder.last is None else 2 if encoder.last_is_pooled else 1
    classes = 0 if encoder.head is None else len(encoder.head.weight)
    sizes = (encoder.dim, encoder.heads, len(encoder.layers), encoder.tokens, encoder.extra, classes)
    flags = (encoder.pre_norm, encoder.first is not None, output, integer.pop(), len(encoder.biases))
    parts = [MAGIC, struct.pack("<11I", *sizes, *flags), *_input(encoder.input, encoder.eps, instructions)]
    parts += [_norm(encoder.first)]
    for layer in encoder.layers:
        attention = (layer.query, layer.key, layer.value, layer.out)
        first, second = (pack(m, block, instructions) for m in (layer.fc1, layer.fc2))
        parts += [pack(m, block, instructions) for m in attention]
        parts += [_norm(layer.norm1), first, second, _norm(layer.norm2)]
        parts += [struct.pack("<fI", levels.scale, levels.zero_point) for levels in layer.levels or ()]
    parts += [np.ascontiguousarray(bias, np.float32).tobytes() for bias in encoder.biases]
    parts += [_norm(encoder.last)]
    if encoder.head is not None:
        parts.append(pack(encoder.head, None, instructions))
    return b"".join(parts)


def _norm(norm: Norm | None) -> bytes:
    return b"" if norm is None else norm.gain.tobytes() + norm.shift.tobytes()


def _input(given: Input | None, eps: float, instructions: str) -> list[bytes]:
    if given is None:
        return [struct.pack("<IIIf", 0, 0, 0, eps)]
    tokens = given.tokens
    kind = 3 if isinstance(tokens, Table) else 2 if tokens.padded else 1
    parts = [struct.pack("<IIIf", kind, given.positions is not None, given.norm is not None, eps)]
    if isinstance(tokens, Table):
        parts.append(struct.pack("<II", len(tokens.weight), tokens.padding))
        parts += [tokens.scale.tobytes(), _filled(tokens.weight.tobytes())]
    else:
        parts.append(pack(tokens.project, None, instructions))
    if given.positions is not None:
        parts.append(np.ascontiguousarray(given.positions, np.float32).tobytes())
    parts.append(_norm(given.norm))
    if given.front is not None:
        parts.append(np.ascontiguousarray(given.front, np.float32).tobytes())
    return parts
