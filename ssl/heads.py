"""What stands on a trunk beside a classifier: heads that say more than a class."""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from winnow.ssl.tokens import gather_tokens
from winnow.ssl.trunk import Encoder


class Tagger(nn.Module):
    """A trunk and a linear head on its mean token, for labels of which several may hold, each by itself."""

    def __init__(self, encoder: Encoder, classes: list[str]) -> None:
        super().__init__()
        self.encoder, self.classes = encoder, classes
        self.head = nn.Linear(encoder.dim, len(classes))

    @property
    def arguments(self) -> dict[str, Any]:
        """What it is made with, beside trunk and classes."""
        return {}

    def forward(self, x: Tensor) -> Float[Tensor, "batch class"]:
        return self.head(self.encoder.pooled(self.encoder(x)))


class Regressor(nn.Module):
    """A trunk and a linear head on its mean token, for a number.

    Args:
        encoder: the trunk.
        classes: the number's name, alone.
    """

    center: Tensor
    scale: Tensor

    def __init__(self, encoder: Encoder, classes: list[str]) -> None:
        super().__init__()
        self.encoder, self.classes = encoder, classes
        self.head = nn.Linear(encoder.dim, 1)
        # What a head of ordinary weights says is of the order of 1; what is told may be of any.
        self.register_buffer("center", torch.zeros(()))
        self.register_buffer("scale", torch.ones(()))

    @property
    def arguments(self) -> dict[str, Any]:
        """What it is made with, beside trunk and classes."""
        return {}

    def forward(self, x: Tensor) -> Float[Tensor, " batch"]:
        standard = self.head(self.encoder.pooled(self.encoder(x)))[:, 0]
        return self.center + self.scale * standard


class Steps(NamedTuple):
    """What a recognizer says, step by step in time.

    Attributes:
        log_probs: of the blank, and of each character.
        number: of steps that count; behind them a row was filled up.
    """

    log_probs: Float[Tensor, "batch step index"]
    number: Int[Tensor, " batch"]


class Recognizer(nn.Module):
    """A trunk and a linear head on each of its tokens, for characters.

    Args:
        encoder: the trunk.
        classes: the characters.
        steps_per_token: that the head tells of each token, one after the other: CTC needs as many as there
            are characters at least, and tokens may last longer than a character.
    """

    def __init__(self, encoder: Encoder, classes: list[str], steps_per_token: int) -> None:
        super().__init__()
        self.encoder, self.classes, self.steps_per_token = encoder, classes, steps_per_token
        self.head = nn.Linear(encoder.dim, steps_per_token * (1 + len(classes)))

    @property
    def arguments(self) -> dict[str, Any]:
        """What it is made with, beside trunk and classes."""
        return {"steps_per_token": self.steps_per_token}

    def forward(self, x: Tensor) -> Steps:
        encoded = self.encoder(x)
        tokens, seen, _ = gather_tokens(encoded.out, encoded.valid)
        logits = self.head(tokens).unflatten(2, (self.steps_per_token, -1)).flatten(1, 2)
        return Steps(logits.log_softmax(2), self.steps_per_token * seen.sum(1))
