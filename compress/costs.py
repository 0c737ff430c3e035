"""What every model costs, and what each step cost and bought: what `evaluate` wrote, for the model report."""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from winnow.data.pages import claims, pareto

_AFTER, _CONTROL = "int8 after training", "control: dense, of equal bytes"
# What may have been evaluated: name, group, whose accuracy, which metric counts its bytes, whose latency.
_VARIANTS = (
    ("teacher", "float", "teacher", "teacher_size_bytes", "teacher"),
    ("student", "float", "student", "student_size_bytes", "student"),
    ("sparse", "float", "sparse", "sparse_size_bytes", "sparse"),
    ("int8, ONNX", "int8, sparse", "int8", "int8_size_bytes", "int8"),
    ("bundle", "int8, sparse", "int8", "bundle_size_bytes", "int8_engine"),
    ("post-training, static", _AFTER, "posttraining_static", "posttraining_static_size_bytes", ""),
    ("post-training, dynamic", _AFTER, "posttraining_dynamic", "", ""),
    ("dense, ONNX", _CONTROL, "control", "control_size_bytes", "control"),
    ("dense, bundle", _CONTROL, "control", "control_bundle_size_bytes", "control_engine"),
)
# Of a model, the one that it was made from.
_BEFORE = {"student": "teacher", "sparse": "student", "int8": "sparse"}
_COUNTS = ("parameters", "nonzeros", "multiply_adds", "multiply_adds_kept", "size_bytes")


def variants(metrics: Mapping[str, Any], latency: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Give every model that was scored, with what it costs and whether one is better for less.

    Args:
        metrics: of `evaluate`.
        latency: the same.

    Returns:
        Each `name`, `group`, `accuracy`, `low`, `high`, `bytes` and `ms` or None, and `best`; see
        `winnow.data.pages.pareto.ranked`.
    """
    found = []
    for name, group, scored, size, timed in _VARIANTS:
        accuracy = claims.measured(metrics, f"{scored}_accuracy")
        if accuracy is None:
            continue
        times = latency.get(timed)
        found.append(
            {
                "name": name,
                "group": group,
                "accuracy": accuracy["value"],
                **{end: accuracy.get(end) for end in ("low", "high")},
                "bytes": metrics.get(size),
                "ms": times.get("batch_1_median_ms") if isinstance(times, Mapping) else None,
            }
        )
    return pareto.ranked(found)


def took(stage: str, history: pd.DataFrame) -> dict[str, Any]:
    """Give the `steps` of a stage's training, and the `samples` that these saw, None if nobody counted."""
    seen = history["samples"].max() if "samples" in history else math.nan
    return {
        "stage": stage,
        "steps": int(history["step"].max()),
        "samples": None if math.isnan(seen) else int(seen),
    }


def steps(
    metrics: Mapping[str, Any], latency: Mapping[str, Any], training: pd.DataFrame
) -> list[dict[str, Any]]:
    """Give what each step took, and what the model was after it.

    Args:
        metrics: of `evaluate`.
        latency: the same.
        training: its `training.csv`.

    Returns:
        Each `stage`; `steps` and `samples` of its training; and of a model that was made, its name, `before`,
        the one that it was made from, `gain`, the change of accuracy between them [points], and `counts`.
    """
    found = []
    last = dict(zip(training["model"], training["stage"], strict=True))  # of each model: what made it
    for (model, stage), history in training.groupby(["model", "stage"], sort=False):
        step = {
            **took(str(stage), history),
            "model": model if last[model] == stage else None,
            "before": None,
            "gain": None,
            "counts": dict.fromkeys((*_COUNTS, "ms")),
        }
        if step["model"]:
            before = _BEFORE.get(str(model))
            timed = latency.get(str(model)) or {}
            step |= {
                "before": before,
                "gain": claims.measured(metrics, f"{model}_minus_{before}_points") if before else None,
                "counts": {
                    **{key: metrics.get(f"{model}_{key}") for key in _COUNTS},
                    "ms": timed.get("batch_1_median_ms"),
                },
            }
        found.append(step)
    return found
