"""What a report may claim: values with their intervals, and gains that are gains."""

import math
from collections.abc import Mapping
from typing import Any

from winnow.data.intervals import verdict
from winnow.data.pages import wording
from winnow.data.pages.wording import Number


def measured(metrics: Mapping[str, Any], name: str) -> dict[str, Number] | None:
    """Read a metric with its interval out of flat metrics; None if it was not measured."""
    found = {
        "value": metrics.get(name),
        "low": metrics.get(f"{name}_low"),
        "high": metrics.get(f"{name}_high"),
    }
    if not wording.known(found["value"]):
        return None
    return {key: float(value) for key, value in found.items() if wording.known(value)}  # type: ignore[arg-type]


def difference(before: Mapping[str, Number], after: Mapping[str, Number]) -> dict[str, Number]:
    """Give after - before of two shares [0–1] with an interval made from theirs.

    It takes the two for independent. Measured on the same samples they are not, and the true
    interval is narrower: what is called a gain here is one.

    Paper: Interval estimation for the difference between independent proportions (Newcombe 1998),
    method 10.
    """
    value = after["value"] - before["value"]
    down = math.hypot(after["value"] - after["low"], before["high"] - before["value"])
    up = math.hypot(after["high"] - after["value"], before["value"] - before["low"])
    return {"value": value, "low": value - down, "high": value + up}


def gain(before: Mapping[str, Number] | None, after: Mapping[str, Number] | None) -> dict[str, Any] | None:
    """Judge a change: `gain`, `loss` or `no measurable gain`; None where it cannot be judged."""
    if not before or not after or len(before) < 3 or len(after) < 3:
        return None
    change = difference(before, after)
    points = {f"{key}_points": 100 * value for key, value in change.items()}
    return points | {"verdict": verdict(change["low"], change["high"])}
