"""What was pruned where: a row of a table for each layer, a column for each of its matrices."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from winnow.data.pages import wording

_PLACE = re.compile(r"(?:^|\.)layers\.(\d+)\.(.+)\.weight$")
_SCAN = "loss_at_"  # and a sparsity: the loss with one matrix at it


def table(rows: Sequence[Mapping[str, Any]], measure: str) -> dict[str, Any]:
    """Lay a measure of the matrices out by layers.

    Args:
        rows: of matrices, each `name`, and by their names measures.
        measure: which is shown.

    Returns:
        `columns`, names of matrices; `rows`, each `layer` and `cells`, None where a layer has no such matrix;
        `most`, the largest, or 0.
    """
    places = [_place(str(row["name"])) for row in rows]
    whole = list(dict.fromkeys(name for _, name in places))
    short = [name.rpartition(".")[2] for name in whole]
    values = {place: row[measure] for place, row in zip(places, rows, strict=True)}
    return {
        "columns": short if len(set(short)) == len(short) else whole,
        "rows": [
            {"layer": layer, "cells": [values.get((layer, name)) for name in whole]}
            for layer in dict.fromkeys(layer for layer, _ in places)
        ],
        "most": max((value for value in values.values() if wording.known(value)), default=0),
    }


def _place(name: str) -> tuple[str, str]:
    found = _PLACE.search(name)
    return (found[1], found[2]) if found else (name.removesuffix(".weight"), "weight")


def sensitivity(rows: Sequence[Mapping[str, Any]], sparsity: float) -> dict[str, Any] | None:
    """Lay out what a scan found: the rise of the loss with one matrix alone as sparse as all are in the end.

    Args:
        rows: of matrices, with `loss_at_…` if there was a scan.
        sparsity: that they have together [0–1].

    Returns:
        As `table`, with the scanned `level` that is nearest; None if nothing was scanned.
    """
    levels = [float(name.removeprefix(_SCAN)) for name in (rows[0] if rows else ()) if name.startswith(_SCAN)]
    above = [level for level in levels if level > 0]
    if not above or 0 not in levels:
        return None
    level = min(above, key=lambda one: abs(one - sparsity))
    dense, pruned = (next(k for k in rows[0] if k == f"{_SCAN}{one}") for one in (0.0, level))
    risen = [{"name": row["name"], "rise": _less(row[pruned], row[dense])} for row in rows]
    return {"level": level, **table(risen, "rise")}


def _less(one: Any, other: Any) -> float | None:
    return one - other if wording.known(one) and wording.known(other) else None
