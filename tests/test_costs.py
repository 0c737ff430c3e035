from typing import Any

import pandas as pd

from winnow.compress import costs


def metrics(**accuracies: float) -> dict[str, Any]:
    found: dict[str, Any] = {f"{name}_accuracy": value for name, value in accuracies.items()}
    return found | {"bundle_size_bytes": 250, "int8_size_bytes": 1000, "control_bundle_size_bytes": 240}


def test_a_model_that_was_not_scored_is_left_out() -> None:
    found = costs.variants(metrics(int8=0.9), {})
    assert [(one["name"], one["bytes"], one["ms"]) for one in found] == [
        ("int8, ONNX", 1000, None),
        ("bundle", 250, None),
    ]


def test_a_control_stands_beside_the_models_where_there_is_one() -> None:
    found = {one["name"]: one for one in costs.variants(metrics(int8=0.9, control=0.85), {})}
    assert found["dense, bundle"]["best"] == {"bytes": True, "ms": False}
    assert found["bundle"]["best"]["bytes"] and not found["int8, ONNX"]["best"]["bytes"]


def test_of_a_latency_only_times_are_read() -> None:
    latency = {"int8": {"batch_1_median_ms": 0.5}, "int8_engine": "not built here"}
    assert [one["ms"] for one in costs.variants(metrics(int8=0.9), latency)] == [0.5, None]


def test_of_two_stages_that_made_a_model_the_last_has_its_counts() -> None:
    training = pd.DataFrame(
        [("teacher", "finetune", 9, 288), ("sparse", "sparsify", 5, 160), ("sparse", "transfer", 3, 96)],
        columns=["model", "stage", "step", "samples"],
    )
    known = {"sparse_nonzeros": 20, "teacher_nonzeros": 100, "sparse_minus_student_points": 0.5}
    teacher, sparsify, transfer = costs.steps(known, {"sparse": {"batch_1_median_ms": 0.5}}, training)
    assert (teacher["model"], teacher["counts"]["nonzeros"], teacher["gain"]) == ("teacher", 100, None)
    assert (sparsify["model"], sparsify["steps"], sparsify["samples"]) == (None, 5, 160)
    assert set(sparsify["counts"].values()) == {None}
    assert (transfer["gain"], transfer["counts"]["nonzeros"], transfer["counts"]["ms"]) == (
        {"value": 0.5},
        20,
        0.5,
    )


def test_samples_that_nobody_counted_are_unknown() -> None:
    assert costs.took("prune", pd.DataFrame({"step": [1, 2]})) == {
        "stage": "prune",
        "steps": 2,
        "samples": None,
    }
