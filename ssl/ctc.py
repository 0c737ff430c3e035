"""Connectionist temporal classification: which row of characters many steps in time may mean.

At each step a network says a character or nothing, the blank, which is index 0. A path of such steps means
what is left of it when repeats are told once and blanks are left out.

Paper: Connectionist temporal classification (Graves et al. 2006), sections 3 and 4.
"""

from collections.abc import Sequence
from itertools import groupby, pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

BLANK = 0


def steps_needed(spelled: Sequence[int]) -> int:
    """Count the steps that a row of characters takes at least: between two equal ones stands a blank."""
    return len(spelled) + sum(one == other for one, other in pairwise(spelled))


def costs(
    log_probs: Float[Tensor, "batch step index"], steps: Int[Tensor, " batch"], spelled: list[list[int]]
) -> Float[Tensor, " batch"]:
    """Give the negative log-likelihood of each row of characters, summed over its paths.

    Args:
        log_probs: of each index at each step.
        steps: of each row that count.
        spelled: the characters; infinite is the cost where they need more steps.
    """
    # On the CPU: CUDA's gradient is another one in every run, and this is a small part of a step.
    length = torch.tensor([len(row) for row in spelled])
    flat = torch.tensor([index for row in spelled for index in row], dtype=torch.long)
    loss = functional.ctc_loss(
        log_probs.transpose(0, 1).float().cpu(), flat, steps.cpu(), length, BLANK, reduction="none"
    )
    return loss.to(log_probs.device)


def greedy(log_probs: Float[Tensor, "step index"]) -> list[int]:
    """Give what the likeliest path means."""
    return [index for index, _ in groupby(log_probs.argmax(1).tolist()) if index != BLANK]


class _Mass(NamedTuple):
    """Probability of a row of characters so far, by how its paths end."""

    blank: float
    character: float

    @property
    def whole(self) -> float:
        return self.blank + self.character


def beam_search(log_probs: Float[Tensor, "step index"], width: int) -> list[int]:
    """Give the likeliest row of characters that a beam finds, each by the sum of its paths.

    It is the likeliest of all if the beam is wide enough to hold every row.

    Args:
        log_probs: of each index at each step.
        width: rows that are kept from step to step.

    Paper: First-pass large vocabulary continuous speech recognition using bi-directional recurrent DNNs
    (Hannun et al. 2014, arXiv 1408.2873), algorithm 1, without a language model.
    """
    beam: dict[tuple[int, ...], _Mass] = {(): _Mass(1.0, 0.0)}
    for probs in log_probs.double().exp().tolist():
        grown: dict[tuple[int, ...], list[float]] = {}
        for row, mass in beam.items():
            last = row[-1] if row else BLANK
            stays = grown.setdefault(row, [0.0, 0.0])
            stays[0] += mass.whole * probs[BLANK]
            if row:
                stays[1] += mass.character * probs[last]
            for index, prob in enumerate(probs):
                if index != BLANK:
                    # A character twice is two only if a blank stood between.
                    grown.setdefault((*row, index), [0.0, 0.0])[1] += prob * (
                        mass.blank if index == last else mass.whole
                    )
        best = sorted(grown.items(), key=lambda item: -sum(item[1]))[:width]
        # In relation to the best, as the products of many steps are too small for a number.
        top = sum(best[0][1]) or 1.0
        beam = {row: _Mass(blank / top, character / top) for row, (blank, character) in best}
    likeliest, _ = max(beam.items(), key=lambda item: item[1].whole)
    return list(likeliest)
