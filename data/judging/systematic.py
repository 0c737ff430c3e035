"""Wrong labels that come in groups: one speaker's digits, one source's pictures, all called something else.

Within its group such a label looks right, since all of its kind have it: a model that knows the group has
learned the error. Only models that never met the group can tell, and they know the group's manner badly.
What they say is made firm by what is known of a group: samples that are alike within it are of one class,
and each class has about its usual share.
"""

from typing import Any, NamedTuple

import numpy as np
from scipy.stats import binom

from winnow.data.neighbours import Graph

_MIN_GROUP = 20  # samples; of fewer nothing can be said
_COVER = 0.5  # share of all classes, by size, of which a group holds more, or usual shares say nothing
_MOST_OF_CLASS = 2 / 3  # that has to bear the wrong label
_CHANCE = 0.001  # that chance alone accuses any cell
_ALIKE = 10  # neighbours within the group that are heard beside a sample
_TURNS = 50  # of the transport


class Systematic(NamedTuple):
    """Which labels are wrong for a whole group.

    Attributes:
        wrong: probability that a label is wrong because its group's are [0–1]; 0 outside of such cells.
        suggested: class index that its group's samples look like; -1 outside of such cells.
        cells: `group` and `label` indices, `n` samples, `suggested` class and `probability`, worst first.
        reason: why nothing could be looked for; empty if it could.
    """

    wrong: np.ndarray
    suggested: np.ndarray
    cells: list[dict[str, Any]]
    reason: str


def look(probabilities: np.ndarray, labels: np.ndarray, groups: np.ndarray, graph: Graph) -> Systematic:
    """Look for groups whose labels of a class are wrong as a whole.

    Args:
        probabilities: `[sample, class]` from models that never met the sample's group.
        labels: class index of each sample, as given.
        groups: group index of each sample, -1 for none.
        graph: neighbours of the samples.
    """
    classes = probabilities.shape[1]
    usual = np.bincount(labels, minlength=classes) / len(labels)
    rows = _rows(labels, groups, usual)
    nothing = Systematic(np.zeros(len(labels)), np.full(len(labels), -1), [], "")
    if not len(rows):
        return nothing._replace(
            reason=f"no group has {_MIN_GROUP} samples and most of the classes: nothing to hold it against"
        )
    heard = _heard(probabilities, groups, graph, rows)
    group = np.unique(groups[rows], return_inverse=True)[1]
    firm = _transported(heard**2, group, usual)
    suggested = firm.argmax(1)

    for cell in _cells(group, labels[rows], suggested, classes):
        accused = (group == cell["group"]) & (labels[rows] == cell["label"])
        accused &= suggested == cell["suggested"]
        # Of this class, in this group, such a share bears this label.
        error = firm[accused, cell["suggested"]] * cell["probability"]
        nothing.wrong[rows[accused]] = error / (error + firm[accused, cell["label"]])
        nothing.suggested[rows[accused]] = cell["suggested"]
        nothing.cells.append(cell | {"group": int(groups[rows[accused][0]])})
    return nothing


def _rows(labels: np.ndarray, groups: np.ndarray, usual: np.ndarray) -> np.ndarray:
    """Give the samples of groups that are large and have most classes: their shares mean something."""
    known = np.flatnonzero(groups >= 0)
    if not len(known):
        return known
    counts = np.zeros((groups.max() + 1, len(usual)), int)
    np.add.at(counts, (groups[known], labels[known]), 1)
    large = counts.sum(1) >= _MIN_GROUP
    cover = (usual * (counts >= 0.5 * usual * counts.sum(1, keepdims=True))).sum(1)
    return known[(large & (cover > _COVER))[groups[known]]]


def _heard(probabilities: np.ndarray, groups: np.ndarray, graph: Graph, rows: np.ndarray) -> np.ndarray:
    """Average a sample's probabilities with those of its nearest neighbours of the same group."""
    total, number = probabilities[rows].copy(), np.ones(len(rows))
    for column in graph.index[rows].T:
        same = (groups[column] == groups[rows]) & (number <= _ALIKE)
        total[same] += probabilities[column[same]]
        number += same
    return total / number[:, None]


def _transported(probabilities: np.ndarray, group: np.ndarray, usual: np.ndarray) -> np.ndarray:
    """Scale the classes within each group until each has its usual share.

    Paper: Sinkhorn distances (Cuturi 2013): the scaling, here of probabilities within a group.
    """
    moved = np.maximum(probabilities, 1e-9)
    moved /= moved.sum(1, keepdims=True)
    size = np.bincount(group)[:, None]
    for _ in range(_TURNS):
        share = np.stack([np.bincount(group, column) for column in moved.T], 1) / size
        moved *= (usual / np.maximum(share, 1e-9))[group]
        moved /= moved.sum(1, keepdims=True)
    return moved


def _cells(
    group: np.ndarray, labels: np.ndarray, suggested: np.ndarray, classes: int
) -> list[dict[str, Any]]:
    """Find the cells (group, label) that hold most of what looks like another class in that group."""
    shape = (group.max() + 1, classes, classes)
    accused = suggested != labels
    keys, n = np.unique(
        np.ravel_multi_index((group[accused], labels[accused], suggested[accused]), shape), return_counts=True
    )
    g, given, other = np.unravel_index(keys, shape)
    size = np.bincount(group * classes + labels, minlength=shape[0] * classes)[g * classes + given]
    same = labels == suggested
    firm = np.bincount(group[same] * classes + labels[same], minlength=shape[0] * classes)
    share = n / (n + firm[g * classes + other])
    rate = accused.mean() / max(1, classes - 1)
    by_chance = binom.sf(n - 1, size, rate) * shape[0] * classes * (classes - 1)
    found = [
        {
            "group": int(g[i]),
            "label": int(given[i]),
            "n": int(n[i]),
            "suggested": int(other[i]),
            "probability": round(float(share[i]), 6),
        }
        for i in np.flatnonzero((n > 1) & (share >= _MOST_OF_CLASS) & (by_chance < _CHANCE))
    ]
    return sorted(found, key=lambda cell: (-cell["n"], cell["group"], cell["label"]))
