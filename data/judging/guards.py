"""Guards: probabilities that nobody should judge labels by are refused."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment

_BETTER = 0.05  # share of labels that another order must explain beyond the given one
_DEVIATIONS = 3.0  # the same, beyond the best of all orders by chance
_SAME = 1e-6  # difference of two probabilities that are one


def refuse_other_order(
    labels: Int[np.ndarray, " sample"], judged: Float[np.ndarray, "sample class"], classes: Sequence[str]
) -> None:
    """See that the columns of probabilities stand for the classes that they are said to stand for.

    Columns in another order raise nothing by themselves: they make most labels look wrong. Here they are
    known by another order that explains the labels much better.

    Args:
        labels: class index of each sample.
        judged: probabilities.
        classes: names, in the order that labels and columns are said to have.

    Raises:
        ValueError: if there are not as many columns as classes, or they seem to have another order.
    """
    if judged.shape[1] != len(classes):
        raise ValueError(f"probabilities of {judged.shape[1]} classes for labels of {len(classes)}")
    counts = np.zeros((len(classes), len(classes)))
    np.add.at(counts, (labels, judged.argmax(1)), 1)
    given, column = linear_sum_assignment(counts, maximize=True)
    gain = counts[given, column].sum() - np.trace(counts)
    # Of all orders of probabilities that say nothing, the best gains about this much.
    by_chance = math.sqrt(2 * math.lgamma(len(classes) + 1)) + _DEVIATIONS
    if gain > max(_BETTER * len(labels), by_chance * math.sqrt(2 * len(labels) / len(classes))):
        moved = [
            f"{classes[c]!r} holds what is called {classes[g]!r}"
            for g, c in zip(given, column, strict=True)
            if g != c and counts[g, c] > counts[g, g]
        ]
        raise ValueError(
            "the columns of the probabilities seem to be in another order than the classes: the column of "
            + "; that of ".join(moved[:5])
            + f". Give them in the order {list(classes)[:10]}"
        )


def refuse_in_sample(
    judged: Float[np.ndarray, "sample class"], seen: Float[np.ndarray, "sample class"]
) -> None:
    """See that labels are not judged by a model that has learned them.

    Such a model believes what it was told, and finds few of the wrong labels, or none.

    Args:
        judged: the probabilities that labels are to be judged by.
        seen: those of the same model for the samples that it was fitted to, labels included.

    Raises:
        ValueError: if they are the same for half of the samples.
    """
    same = np.abs(judged - seen).max(1) <= _SAME
    # A model that is sure says the same of what it has seen and of what is like it.
    telling = seen.max(1) < 1 - _SAME
    share = same[telling].mean() if telling.any() else float(same.all())
    if share >= 0.5:
        raise ValueError(
            f"{share:.0%} of the probabilities are those of a model that has seen the samples and their "
            "labels: predict each sample by a model that was fitted without it (out of fold)"
        )
