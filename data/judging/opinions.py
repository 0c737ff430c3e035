"""What several models think of every sample, from all evidence there is, out of fold."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import scipy.sparse
from sklearn.pipeline import Pipeline

from winnow.data import folds
from winnow.data.engine import HERE, Workers
from winnow.data.neighbours import Graph, Vectors

Opinions: TypeAlias = "dict[tuple[str, str], np.ndarray]"  # (evidence, model) → [sample, class]
Shares: TypeAlias = "dict[tuple[str, str], float]"  # (evidence, model) → how much it counts; they sum to 1
VOTE = "neighbours"


class Evidence(NamedTuple):
    """One kind of vectors, descriptors say, and who is near whom by them.

    Attributes:
        vectors: one row per sample.
        graph: their nearest neighbours.
    """

    vectors: Vectors
    graph: Graph


class Pool(NamedTuple):
    """Whose labels are judged, and by what is learned.

    Attributes:
        given: class index of each sample as delivered, -1 where unlabelled.
        trusted: class index to learn from, -1 where a sample is not to be learned from.
        classes: number of classes.
        judged: rows that are judged out of fold.
        asked: rows that are judged by a model of all others, and never learned from.
    """

    given: np.ndarray
    trusted: np.ndarray
    classes: int
    judged: np.ndarray
    asked: np.ndarray


def of_strangers(
    evidence: Mapping[str, Evidence],
    pool: Pool,
    fold: np.ndarray,
    penalty: float,
    workers: Workers = HERE,
) -> Opinions:
    """Ask models that met neither a sample nor its kin.

    Args:
        evidence: by name.
        pool: the samples.
        fold: of each sample, -1 outside of `pool.judged`.
        penalty: C of the logistic regression.
        workers: who fits the models.

    Returns:
        The opinion of each model on each evidence; `asked` rows are judged by a model of all folds. Zeros
        where a sample is neither judged nor asked.
    """
    found: Opinions = {}
    wanted = np.zeros(len(fold), bool)
    wanted[pool.judged] = wanted[pool.asked] = True
    for name, (vectors, graph) in evidence.items():
        for model_name, model in _models(vectors, penalty):
            found[name, model_name] = folds.out_of_fold(
                model, vectors, pool.trusted, fold, pool.classes, asked=pool.asked, workers=workers
            )
        voted = folds.vote(graph, pool.trusted, fold, pool.classes)
        found[name, VOTE] = np.where(wanted[:, None], voted, 0)
    return found


def of_other_groups(
    evidence: Mapping[str, Evidence],
    pool: Pool,
    fold: np.ndarray,
    penalty: float,
    k: int,
    exact_up_to: int,
    workers: Workers = HERE,
) -> Opinions:
    """Ask models that never met a sample's group, nor any of its samples.

    The graph does not help here: most neighbours of a sample are of its own group.

    Args:
        evidence: by name.
        pool: the samples.
        fold: of each sample, groups whole; -1 outside of `pool.judged`.
        penalty: C of the logistic regression.
        k: neighbours that vote.
        exact_up_to: samples beyond which the neighbours in other groups are not looked for.
        workers: who fits the models.
    """
    found: Opinions = {}
    for name, (vectors, _) in evidence.items():
        models = list(_models(vectors, penalty))
        if len(pool.judged) <= exact_up_to:
            models.append((VOTE, folds.neighbours(vectors, k)))
        for model_name, model in models:
            found[name, model_name] = folds.out_of_fold(
                model, vectors, pool.trusted, fold, pool.classes, workers=workers
            )
    return found


def _models(vectors: Vectors, penalty: float) -> Iterator[tuple[str, Pipeline]]:
    yield "linear", folds.linear(vectors, penalty)
    if scipy.sparse.issparse(vectors):
        yield "counts", folds.counting(vectors)


def weigh(opinions: Opinions, pool: Pool) -> Shares:
    """Give each opinion a share: what it helps to predict the given labels.

    All labels that were given count: the trusted ones were chosen by an earlier round, and would flatter
    the evidence that chose them.
    """
    rows = pool.judged
    shares = folds.mixture([opinion[rows, pool.given[rows]] for opinion in opinions.values()])
    return dict(zip(opinions, shares.tolist(), strict=True))


def evidence(shares: Shares) -> list[str]:
    """Name what there is evidence from."""
    return list(dict.fromkeys(name for name, _ in shares))


def share(shares: Shares, name: str) -> float:
    """Give how much one evidence counts, by all models together."""
    return sum(share for key, share in shares.items() if key[0] == name)


def mix(
    opinions: Opinions,
    shares: Shares,
    *,
    evidence: str | None = None,
    models: Sequence[str] | None = None,
) -> np.ndarray:
    """Average opinions by their shares: all of them, those from one evidence, or of some models."""
    chosen = [
        key
        for key in opinions
        if (evidence is None or key[0] == evidence) and (models is None or key[1] in models)
    ]
    # Of opinions that have no share at all, each counts the same.
    total = sum(shares[key] for key in chosen)
    weight = {key: shares[key] / total if total > 1e-9 else 1 / len(chosen) for key in chosen}
    mixed = sum(weight[key] * opinions[key] for key in chosen)
    assert isinstance(mixed, np.ndarray)
    return mixed / np.maximum(mixed.sum(1, keepdims=True), 1e-12)
