"""Embeddings → a map: samples that a model takes for alike lie side by side."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from winnow.data import store

KINDS = ("label issue", "outlier", "near duplicate", "ordinary")  # a sample is of the first that fits
_FEWEST = 12  # samples of which a map can be made
_FLAGGED_SHARE = 0.3  # of the map, that flagged samples may take
_COMPONENTS, _PERPLEXITY = 30, 30
_ITERATIONS = 500  # half of scikit-learn's default; trustworthiness is the same (.988 vision, .917 text)
_NAMED = 24  # classes whose name stands on the map
EMPTY: Mapping[str, Any] = {"method": "", "n": 0, "of": 0, "counts": {}, "points": [], "labels": []}


def draw(table: pd.DataFrame, vectors: Path, *, samples: int, seed: int) -> dict[str, Any]:
    """Lay out a seeded choice of samples on a plane.

    Args:
        table: all samples of a round: `id, given, suggested_label` and flags.
        vectors: folder of their embeddings.
        samples: points on the map, at most.
        seed: of the choice and the layout.
    """
    if not vectors.exists():
        return {**EMPTY, "status": "error", "reason": f"{vectors.name} is absent: run its stage"}
    if len(table) < _FEWEST:
        return {**EMPTY, "status": "skipped", "reason": f"fewer than {_FEWEST} samples"}
    kinds = _kinds(table)
    rows = _choose(kinds != KINDS.index("ordinary"), samples, np.random.default_rng(seed))
    chosen = table.iloc[rows]
    found = store.read_vectors(vectors, chosen["id"].tolist())
    dense = found if isinstance(found, np.ndarray) else found.toarray()
    if not np.ptp(dense, axis=0).any():
        return {**EMPTY, "status": "skipped", "reason": "all embeddings are the same"}
    places, method = _layout(dense.astype(np.float64), seed)
    return {
        "status": "ok",
        "reason": "",
        "method": method,
        "n": len(rows),
        "of": len(table),
        "counts": {kind: int((kinds[rows] == i).sum()) for i, kind in enumerate(KINDS)},
        "points": [
            {
                "x": float(x),
                "y": float(y),
                "kind": KINDS[kind],
                **({} if KINDS[kind] == "ordinary" else _told(row)),
            }
            for (x, y), kind, row in zip(places, kinds[rows], chosen.itertuples(), strict=True)
        ],
        "labels": _labels(places, chosen["given"].to_numpy(object)),
    }


def _kinds(table: pd.DataFrame) -> Int[np.ndarray, " sample"]:
    flags = [table["is_label_issue"], table["is_outlier"], table["near_duplicate_set"] >= 0]
    return np.select([flag.to_numpy(bool) for flag in flags], range(3), 3)


def _choose(
    flagged: Bool[np.ndarray, " sample"], samples: int, random: np.random.Generator
) -> Int[np.ndarray, " chosen"]:
    """Take flagged samples up to a share of the map and fill up with others, in their order."""
    worst = random.permutation(np.flatnonzero(flagged))
    rest = random.permutation(np.flatnonzero(~flagged))
    most = max(round(_FLAGGED_SHARE * samples), samples - len(rest))
    worst = worst[:most]
    return np.sort(np.concatenate([worst, rest[: samples - len(worst)]]))


def _layout(vectors: Float[np.ndarray, "sample dim"], seed: int) -> tuple[Float[np.ndarray, "sample 2"], str]:
    """Place samples on the unit square.

    Paper: Visualizing data using t-SNE (van der Maaten and Hinton 2008).
    """
    components = min(_COMPONENTS, *vectors.shape)
    reduced = PCA(components, random_state=seed).fit_transform(vectors)
    perplexity = min(_PERPLEXITY, (len(vectors) - 1) // 3)
    made = TSNE(
        2,
        max_iter=_ITERATIONS,
        perplexity=perplexity,
        init="pca" if components > 1 else "random",
        random_state=seed,
        n_jobs=1,
    )
    places = made.fit_transform(reduced).astype(np.float64)
    low, span = places.min(axis=0), np.ptp(places, axis=0)
    unit = (places - low) / np.where(span > 0, span, 1)
    return np.round(unit, 4), f"t-SNE of {components} principal components, perplexity {perplexity}"


def _told(row: Any) -> dict[str, Any]:
    return {"id": row.id, "label": row.given, "suggested": row.suggested_label}


def _labels(places: Float[np.ndarray, "sample 2"], given: np.ndarray) -> list[dict[str, Any]]:
    """Put the name of each class where most of its samples are; none if there are too many."""
    known = pd.DataFrame(places, columns=["x", "y"]).assign(label=given).dropna(subset="label")
    middles = known.groupby("label")[["x", "y"]].median()
    if len(middles) > _NAMED:
        return []
    return [
        {"label": str(row.Index), "x": round(float(row.x), 4), "y": round(float(row.y), 4)}
        for row in middles.itertuples()
    ]
