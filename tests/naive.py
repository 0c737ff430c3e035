"""data2vec as its formulas say it: one sample, one token, one head at a time; nothing padded or batched."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from winnow.ssl.draws import Draws
from winnow.ssl.trunk import Encoder

Rows = dict[int, Tensor]  # of a sample: place on the grid → its token


def norm(x: Tensor, like: nn.LayerNorm | None, eps: float = 1e-5) -> Tensor:
    eps = eps if like is None else like.eps
    centred = (x - x.mean()) / ((x - x.mean()).square().mean() + eps).sqrt()
    if like is None or like.weight is None:
        return centred
    return centred * like.weight + like.bias


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def attention_bias(encoder: Encoder, layer: int, head: int, one: int, other: int) -> Tensor | float:
    """Give the bias of a place for another; extra tokens stand at negative places."""
    kind, grid, heads = encoder.shape.attention_bias, encoder.modality.grid, encoder.shape.heads
    if kind == "none":
        return 0.0
    module: Any = encoder.relative[layer if kind == "layer_table" else 0]
    if kind == "alibi":
        if one < 0 or other < 0:
            return 0.0
        apart = sum(abs(a - b) for a, b in zip(place(one, grid), place(other, grid), strict=True))
        return -apart * 2 ** (-8 * (head + 1) / heads) * module.scale[head].clamp(min=0)
    if one < 0 or other < 0:
        row = -1 if one < 0 and other < 0 else -3 if one < 0 else -2
    else:
        row = 0
        for a, b, side in zip(place(one, grid), place(other, grid), grid, strict=True):
            row = row * (2 * side - 1) + (a - b + side - 1)
    return module.table[row, head]


def place(number: int, grid: tuple[int, ...]) -> list[int]:
    where = []
    for side in reversed(grid):
        number, rest = divmod(number, side)
        where.insert(0, rest)
    return where


def attend(encoder: Encoder, number: int, x: Rows) -> Rows:
    attention: Any = encoder.layers[number].attention
    width = encoder.shape.dim // encoder.shape.heads
    mixed = {at: [] for at in x}
    for nth, head in enumerate(encoder.shape.sizes[number].heads):
        part = slice(nth * width, (nth + 1) * width)
        for at, row in x.items():
            query = attention.query(row)[part]
            score = torch.stack(
                [
                    query @ attention.key(other)[part] / math.sqrt(width)
                    + attention_bias(encoder, number, head, at, there)
                    for there, other in x.items()
                ]
            )
            weight = score.exp() / score.exp().sum()
            values = [attention.value(other)[part] for other in x.values()]
            mixed[at].append(sum(w * v for w, v in zip(weight, values, strict=True)))
    return {at: attention.out(torch.cat(parts)) for at, parts in mixed.items()}


def run(encoder: Encoder, x: Rows) -> tuple[list[Rows], list[Rows], Rows]:
    """Give hidden states, taps and output; extra tokens stand at the places -1, -2 and so on."""
    shape = encoder.shape
    if encoder.extra is not None:
        x = {-1 - i: token for i, token in enumerate(encoder.extra)} | x
    if shape.norm == "post":
        x = {at: norm(row, encoder.norm) for at, row in x.items()}
    hidden, taps = [], []
    for number in range(shape.layers):
        layer: Any = encoder.layers[number]
        one = 1.0 if layer.scale1 is None else layer.scale1
        two = 1.0 if layer.scale2 is None else layer.scale2
        if shape.norm == "post":
            y = attend(encoder, number, x)
            x = {at: norm(x[at] + one * y[at], layer.norm1) for at in x}
            tap = {at: layer.fc2(gelu(layer.fc1(row))) for at, row in x.items()}
            x = {at: norm(x[at] + two * tap[at], layer.norm2) for at in x}
        else:
            y = attend(encoder, number, {at: norm(row, layer.norm1) for at, row in x.items()})
            x = {at: x[at] + one * y[at] for at in x}
            tap = {at: layer.fc2(gelu(layer.fc1(norm(row, layer.norm2)))) for at, row in x.items()}
            x = {at: x[at] + two * tap[at] for at in x}
        hidden.append(x)
        taps.append(tap)
    if shape.output_norm == "token":
        x = {at: norm(row, encoder.output_norm) for at, row in x.items()}
    return hidden, taps, x


def located(encoder: Encoder, x: Tensor, known: list[int]) -> Rows:
    """Add to the tokens of one sample where they stand; only `known` ones reach their neighbours."""
    if encoder.positions is not None:
        x = x + encoder.positions
    if encoder.position_norm is not None:
        x = torch.stack([norm(row, encoder.position_norm) for row in x])
    if encoder.convolutions is not None:
        around = torch.zeros_like(x)
        around[known] = x[known]
        for layer in encoder.convolutions.layers:
            kind = {1: functional.conv1d, 2: functional.conv2d}[len(encoder.modality.grid)]
            plane = around.T.reshape(1, -1, *encoder.modality.grid)
            sides = layer.kernel_size[0] // 2
            plane = kind(plane, layer.weight, layer.bias, padding=sides, groups=layer.groups)
            around = torch.stack([gelu(norm(row, None)) for row in plane.flatten(2)[0].T])
        x = x + around
    return dict(enumerate(x))


def target(method: Any, own: Tensor, here: list[int]) -> Rows:
    """Give what the teacher makes of the valid tokens of one sample."""
    rows = located(method.teacher, own, here)
    hidden, taps, _ = run(method.teacher, {at: rows[at] for at in here})
    wanted = method.make_target
    chosen = (taps if wanted.tap == "feed_forward" else hidden)[-wanted.layers :]
    planes = [normed(torch.stack([rows[at] for at in here]), wanted.norm) for rows in chosen]
    mean = normed(sum(planes) / len(planes), wanted.final_norm)
    return dict(zip(here, mean, strict=True))


def normed(x: Tensor, kind: str) -> Tensor:
    if kind == "none":
        return x
    axis = 0 if kind == "instance" else 1
    centred = x - x.mean(axis, keepdim=True)
    return centred / (centred.square().mean(axis, keepdim=True) + 1e-5).sqrt()


def cost(method: Any, prediction: Tensor, wanted: Tensor) -> Tensor:
    loss, error = method.cost, (prediction - wanted).abs()
    if loss.beta:
        error = torch.where(error < loss.beta, error.square() / (2 * loss.beta), error - loss.beta / 2)
    else:
        error = error.square()
    return error.sum() / {"sum": 1, "mean": len(wanted), "root": math.sqrt(len(wanted))}[loss.scale]


def step(method: Any, x: Tensor, draws: Draws) -> Tensor:
    """Give the loss of a batch, with the draws of the whole batch in the order that the method makes them."""
    valid = method.student.frontend(x).valid
    masks = method.masking(valid.repeat_interleave(method.masks, 0), method.grid, draws)
    if method.complementary:
        for clone in range(1, len(masks), 2):
            masks[clone] = ~masks[clone - 1] & valid[clone // method.masks]
    dim, covers = method.student.shape.dim, hasattr(method.predictor, "cover")
    if not covers:
        noise = method.predictor.shape.noise_std * draws.normal(masks.shape[1], dim)
    total, count = torch.zeros(()), 0
    views: list[tuple[int, int, Tensor]] = []  # the sample of each, its hidden tokens, its vector
    for i in range(len(x)):
        here = valid[i].nonzero().flatten().tolist()
        shared = "frontend" in method.ema.shared
        reader = method.student if shared else method.teacher
        with torch.no_grad():
            wanted = target(method, reader.frontend(x[i : i + 1]).x[0], here)
        own = method.student.frontend(x[i : i + 1]).x[0]
        for clone in range(method.masks * i, method.masks * (i + 1)):
            hidden = [at for at in here if masks[clone, at]]
            seen = [at for at in here if not masks[clone, at]]
            if covers:
                covered = own.clone()
                covered[hidden] = method.predictor.cover
                rows = located(method.student, covered, here)
                out = run(method.student, {at: rows[at] for at in here})[2]
                prediction = {at: method.predictor.out(out[at]) for at in here}
            else:
                rows = located(method.student, own, seen)
                out = run(method.student, {at: rows[at] for at in seen})[2]
                canvas = [
                    out[at] if at in seen else noise[clone, at] if at in hidden else torch.zeros(dim)
                    for at in range(masks.shape[1])
                ]
                prediction = dict(enumerate(method.predictor(torch.stack(canvas)[None])[0]))
            mean = torch.stack(list(wanted.values())).mean(0)
            costs = {at: cost(method, prediction[at], wanted[at]) for at in here}
            extra = [cost(method, out[at], mean) for at in out if at < 0]
            row = sum(costs[at] for at in hidden) / len(hidden)
            row = row + method.cost.visible * sum(costs[at] for at in seen) / len(seen)
            if method.cost.extra:
                row = row + method.cost.extra * sum(extra) / len(extra)
            total, count = total + len(hidden) * row, count + len(hidden)
            if method.instances is not None:
                vector = method.instances.project(torch.stack([out[at] for at in out if at >= 0]).mean(0))
                views.append((i, len(hidden), vector / vector.norm()))
    for number, (sample, hidden, vector) in enumerate(views):
        others = [view for at, view in enumerate(views) if at != number]
        shape = method.instances.shape
        likeness = [(vector @ other / shape.temperature).exp() for _, _, other in others]
        found = [
            -(own / sum(likeness)).log()
            for own, other in zip(likeness, others, strict=True)
            if other[0] == sample
        ]
        total = total + shape.weight * hidden * sum(found) / len(found)
    return total / count
