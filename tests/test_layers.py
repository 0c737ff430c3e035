import pytest

from winnow.data.pages import layers

NAMES = [f"encoder.layers.{i}.{name}.weight" for i in (0, 1) for name in ("attention.query", "fc1")]


def test_matrices_are_laid_out_by_layer_and_name() -> None:
    rows = [{"name": name, "sparsity": i / 4} for i, name in enumerate(NAMES)]
    found = layers.table(rows, "sparsity")
    assert found == {
        "columns": ["query", "fc1"],
        "rows": [{"layer": "0", "cells": [0.0, 0.25]}, {"layer": "1", "cells": [0.5, 0.75]}],
        "most": 0.75,
    }


def test_a_layer_without_a_matrix_and_a_matrix_without_a_layer_have_their_places() -> None:
    names = ("layers.0.a.proj.weight", "layers.1.b.proj.weight", "conv.weight")
    rows = [{"name": name, "zeros": 1} for name in names]
    found = layers.table(rows, "zeros")
    assert found["columns"] == ["a.proj", "b.proj", "weight"]  # short names would be the same
    assert [row["cells"] for row in found["rows"]] == [[1, None, None], [None, 1, None], [None, None, 1]]
    assert [row["layer"] for row in found["rows"]] == ["0", "1", "conv"]


def test_sensitivity_is_the_rise_of_the_loss_at_the_nearest_level() -> None:
    rows = [
        {"name": name, "loss_at_0.0": 0.5, "loss_at_0.5": 9.0, "loss_at_0.9": 0.5 + i, "sparsity": 0.8}
        for i, name in enumerate(NAMES)
    ]
    found = layers.sensitivity(rows, 0.8)
    assert found is not None
    assert (found["level"], found["most"]) == (0.9, 3.0)
    assert found["rows"][1]["cells"] == pytest.approx([2.0, 3.0])


def test_without_a_scan_there_is_no_sensitivity() -> None:
    assert layers.sensitivity([{"name": NAMES[0], "sparsity": 0.8}], 0.8) is None
    assert layers.sensitivity([], 0.8) is None
