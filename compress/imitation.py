"""What a student learns from inside its teacher: outputs of layers, and how tokens relate to each other."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from winnow.ssl.model import Classifier
from winnow.ssl.tokens import pool
from winnow.ssl.trunk import PROJECTIONS, Encoder, Layer

_FAR = -1e9  # a score of what is not there: no softmax gives it anything, and it is a number


@dataclass(frozen=True, kw_only=True)
class Relations:
    """How tokens relate in the student's last layer, to be as in one of the teacher's.

    Attributes:
        weight: of the divergence, beside the other costs; 0: it is not looked at.
        heads: that queries, keys and values are cut into, whatever heads attention has; divides the width
            of both networks.
        layer: of the teacher, from 0; -1 is the last.
    """

    weight: float
    heads: int
    layer: int


class Inside(NamedTuple):
    """What goes on in a classifier.

    Attributes:
        logits: what it says.
        hidden: output of every layer, of the grid's tokens.
        valid: False where a row was filled up.
        projected: query, key and value of one layer; extra tokens stand in front of the grid's.
    """

    logits: Float[Tensor, "batch class"]
    hidden: list[Float[Tensor, "batch token dim"]]
    valid: Bool[Tensor, "batch token"]
    projected: list[Float[Tensor, "batch place width"]]


def look(model: Classifier, x: Tensor, layer: int | None) -> Inside:
    """Run a classifier and keep what goes on in it.

    Args:
        model: a classifier.
        x: samples.
        layer: whose queries, keys and values are kept; None: of none.
    """
    projected: list[Tensor] = []
    # For this run alone: the student's layers may be exchanged for others, as quantizing does.
    hooks = []
    if layer is not None:
        attention = model.encoder.layers[layer].get_submodule("attention")
        for name in PROJECTIONS:
            part = attention.get_submodule(name)
            hooks.append(part.register_forward_hook(lambda module, given, out: projected.append(out)))
    try:
        encoded = model.encoder(x)
    finally:
        for hook in hooks:
            hook.remove()
    logits = model.head(model.encoder.pooled(encoded))
    return Inside(logits, encoded.hidden, encoded.valid, projected)


def teachers_of(student: int, teacher: int) -> list[int]:
    """Say from which of the teacher's layers each of the student's learns: evenly, the last from the last.

    Args:
        student: number of its layers.
        teacher: number of its layers.

    Paper: TinyBERT (Jiao et al. 2020, arXiv 1909.10351), section 3.2; the uniform strategy.
    """
    return [max((number + 1) * teacher // student - 1, 0) for number in range(student)]


class Latents(nn.Module):
    """Compares layers' outputs, each token normalised; where widths differ, through a learned projection.

    It serves training alone: no student is kept with it.

    Args:
        student: trunk that learns.
        teacher: trunk that teaches.

    Paper: TinyBERT (Jiao et al. 2020, arXiv 1909.10351), section 3.1, equation 8, for the projections;
    data2vec (Baevski et al. 2022, arXiv 2202.03555), section 3.3, for the norm.
    """

    def __init__(self, student: Encoder, teacher: Encoder) -> None:
        super().__init__()
        self.teachers = teachers_of(len(student.layers), len(teacher.layers))
        self.projections = nn.ModuleList(
            nn.Identity() if student.dim == teacher.dim else nn.Linear(student.dim, teacher.dim)
            for _ in self.teachers
        )

    def forward(self, student: Inside, teacher: Inside) -> Float[Tensor, ""]:
        """Give the mean squared error of a layer, a token and a channel, over samples of equal weight."""
        errors = []
        for number, project, x in zip(self.teachers, self.projections, student.hidden, strict=True):
            wanted = _normed(teacher.hidden[number])
            error = (project(_normed(x)).float() - wanted).square().mean(2, keepdim=True)
            errors.append(pool(error, student.valid).mean())
        return torch.stack(errors).mean()


def _normed(x: Float[Tensor, "batch token dim"]) -> Float[Tensor, "batch token dim"]:
    return functional.layer_norm(x.float(), x.shape[-1:])


def relation_loss(student: Inside, teacher: Inside, heads: int) -> Float[Tensor, ""]:
    """Give how far the student's relations diverge from the teacher's, over samples of equal weight.

    A relation says, for each token, how alike its query (key, value) is to that of every other, as a
    distribution over tokens. It has the width of neither network.

    Paper: MiniLMv2 (Wang et al. 2021, arXiv 2012.15828), section 3.1, with equal weights.
    """
    extra = student.projected[0].shape[1] - student.valid.shape[1]
    valid = functional.pad(student.valid, (extra, 0), value=True)
    costs = []
    for own, wanted in zip(student.projected, teacher.projected, strict=True):
        told, found = _relations(wanted, valid, heads), _relations(own, valid, heads)
        divergence = (told.exp() * (told - found)).sum(3).mean(1)  # of each token [B, N]
        costs.append(pool(divergence[..., None], valid).mean())
    return torch.stack(costs).mean()


def _relations(
    x: Float[Tensor, "batch place width"], valid: Bool[Tensor, "batch place"], heads: int
) -> Float[Tensor, "batch head place place"]:
    """Give the logarithms of the distributions, in 32 bits."""
    cut = x.float().unflatten(2, (heads, -1)).transpose(1, 2)
    scores = cut @ cut.transpose(2, 3) / math.sqrt(cut.shape[3])
    return scores.masked_fill(~valid[:, None, None, :], _FAR).log_softmax(3)


def require_relations(student: Encoder, teacher: Encoder, relations: Relations) -> None:
    """Make sure that two trunks have relations that can be compared.

    Raises:
        ValueError: if there is no such layer, `heads` does not divide its width, or it is timm's, whose
            queries, keys and values are one product.
    """
    if not -len(teacher.layers) <= relations.layer < len(teacher.layers):
        raise ValueError(
            f"relations.layer is {relations.layer}; the teacher has {len(teacher.layers)} layers"
        )
    for role, layer in (("student", student.layers[-1]), ("teacher", teacher.layers[relations.layer])):
        if not isinstance(layer, Layer):
            raise ValueError(f"relations are of winnow's own trunks, and the {role} is one of timm's")
        width = layer.attention.get_submodule("query").get_parameter("weight").shape[0]
        if width % relations.heads:
            raise ValueError(
                f"relations.heads {relations.heads} does not divide the {role}'s width {width} of queries"
            )
