"""What cleaning did to a model, with its controls: the curves of a report and what may be said of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from winnow.data import store
from winnow.data.pages import chapters

EMPTY: Mapping[str, Any] = {"measures": [], "headline": None, "over_random": None, "also": []}
_ARM = ("arm", "n", "dropped", "relabelled", "accuracies", "mean", "low", "high")
_RECOVERY = ("arm", "status", "reason", "value", "low", "high")
_GAIN = ("arm", "against", "value_points", "low_points", "high_points", "verdict")
_CURVES = {"round": "cleaned", "random_drop": "as many dropped at random"}  # over rounds, from `delivered` on
_LEVELS = {"oracle": "all labels right", "delivered": "as delivered"}  # the same in every round


def read(root: Path) -> dict[str, Any]:
    """Read what the stage `effect` measured: accuracies of paired seeds for each arm."""
    return chapters.read(root / "effect" / "effect.json", EMPTY, _read)


def _read(path: Path) -> dict[str, Any]:
    measures = [_measure(one) for one in store.read_json(path)["measures"]]
    ran = [one for one in measures if one["status"] == chapters.OK]
    if not ran:
        reasons = "; ".join(f"{one['measure']}: {one['reason']}" for one in measures)
        return {"status": chapters.SKIPPED, "reason": reasons or "nothing was measured", "measures": measures}
    first = ran[0]
    last = max((arm["arm"] for arm in first["arms"] if arm["arm"].startswith("round@")), key=number)
    return {
        "measures": measures,
        "headline": _gain(first, last, "delivered"),
        "over_random": _gain(first, last, f"random_drop@{number(last)}"),
        "also": [gain for one in ran[1:] if (gain := _gain(one, last, "delivered"))],
    }


def _measure(one: Mapping[str, Any]) -> dict[str, Any]:
    ran = one["status"] == chapters.OK
    return {
        **{key: one[key] for key in ("measure", "status", "reason")},
        "arms": [{key: arm[key] for key in _ARM} for arm in one["arms"]] if ran else [],
        "absent": [{key: arm[key] for key in ("arm", "reason")} for arm in one["absent"]] if ran else [],
        "gains": [{key: gain[key] for key in _GAIN} for gain in one["gains"]] if ran else [],
        "recovery": [{key: row[key] for key in _RECOVERY} for row in one["recovery"]] if ran else [],
    }


def _gain(measure: Mapping[str, Any], arm: str, against: str) -> dict[str, Any] | None:
    for gain in measure["gains"]:
        if (gain["arm"], gain["against"]) == (arm, against):
            return {"measure": measure["measure"], **gain}
    return None


def number(arm: str) -> int:
    """Give the round of an arm: 2 of `random_drop@2`, 0 of `delivered`."""
    return int(arm.partition("@")[2] or 0)


def curves(measure: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Give the lines of a chart: accuracy over rounds, the controls dashed."""
    arms = {arm["arm"]: arm for arm in measure["arms"]}
    rounds = sorted({number(name) for name in arms})
    lines = []
    for kind, text in _CURVES.items():
        own = [name for name in arms if name.partition("@")[0] == kind]
        if own:
            points = [_point(arms[name], number(name)) for name in sorted(own, key=number)]
            start = [_point(arms["delivered"], 0)] if "delivered" in arms else []
            lines.append({"name": text, "dashed": kind != "round", "points": start + points})
    for name, text in _LEVELS.items():
        if name in arms:
            level = [{"x": x, "y": arms[name]["mean"]} for x in rounds]
            lines.append({"name": text, "dashed": True, "points": level})
    return lines


def _point(arm: Mapping[str, Any], x: int) -> dict[str, Any]:
    return {"x": x, "y": arm["mean"], "low": arm["low"], "high": arm["high"]}


def named(arm: str) -> str:
    """Write an arm for people: `random_drop@2` → as many dropped at random, round 2."""
    kind, _, round_ = arm.partition("@")
    text = {**_CURVES, **_LEVELS}.get(kind, kind.replace("_", " "))
    return f"{text}, round {round_}" if round_ else text


def all_curves(effect: Mapping[str, Any]) -> Sequence[dict[str, Any]]:
    """Give a chart for each measure that ran."""
    return [
        {"measure": one["measure"], "lines": curves(one)}
        for one in effect["measures"]
        if one["status"] == chapters.OK
    ]
