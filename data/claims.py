"""What a report may claim: values with their intervals, gains that are gains, and verdicts."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from winnow.data import wording
from winnow.data.wording import Number

PASS, WARN, FAIL, SKIPPED, NOTE = "pass", "warn", "fail", "skipped", "note"


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
    verdict = "no measurable gain"
    if change["low"] > 0:
        verdict = "gain"
    elif change["high"] < 0:
        verdict = "loss"
    return {**{f"{key}_points": 100 * value for key, value in change.items()}, "verdict": verdict}


def gates(report: Mapping[str, Any]) -> list[dict[str, str]]:
    """Judge a data report: what its reader should know before the details."""
    last = report["rounds"][-1]
    found = [
        _gate("Test split", PASS, "untouched: every test sample kept its label in every round"),
        _rejects(report["dataset"]),
        _leakage(last["leakage"]),
        _judge(last),
        _noise(last["labels"], last["round"]),
        _retention(last["classes"]),
        _checks(last["checks"]),
        _effect(report["effect"]),
    ]
    return [gate for gate in found if gate]


def _gate(name: str, status: str, text: str) -> dict[str, str]:
    return {"name": name, "status": status, "text": text}


def _rejects(dataset: Mapping[str, Any]) -> dict[str, str]:
    rejects, inputs = dataset["rejects"], dataset["inputs"]
    if not rejects:
        return _gate("Inputs", PASS, f"all {wording.count(inputs)} could be used")
    return _gate("Inputs", WARN, f"{wording.count(rejects)} of {wording.count(inputs)} were rejected")


def _leakage(leakage: Mapping[str, Any]) -> dict[str, str]:
    counts = {name: n for name, n in leakage.items() if wording.known(n)}
    found = {name: n for name, n in counts.items() if n}
    if not counts:
        return _gate("Leakage", SKIPPED, "was not looked for")
    if not found:
        return _gate("Leakage", PASS, "nothing is shared between splits")
    text = ", ".join(f"{wording.words(name)}: {wording.count(n)}" for name, n in sorted(found.items()))
    return _gate("Leakage", WARN, text)


def _judge(last: Mapping[str, Any]) -> dict[str, str]:
    """A judge that does no better than guessing the largest class finds no wrong labels."""
    accuracy = last["accuracy"]
    if not accuracy:
        return _gate("Judge", SKIPPED, "no out-of-fold accuracy: labels were not judged")
    told = (
        f"out-of-fold accuracy {wording.percent(accuracy['value'])}, "
        f"guessing the largest class gives {wording.percent(last['largest_class'])}"
    )
    low = accuracy.get("low", accuracy["value"])
    return _gate("Judge", PASS if low > (last["largest_class"] or 0.0) else FAIL, told)


def _noise(labels: Mapping[str, Any], number: int) -> dict[str, str]:
    if labels["flagged"] is None:
        return _gate("Labels", SKIPPED, "there are no labels to judge")
    if not labels["flagged"]:
        return _gate("Labels", PASS, f"round {number} suspects none")
    flagged, judged = wording.count(labels["flagged"]), wording.count(labels["n"])
    return _gate("Labels", WARN, f"round {number} suspects {flagged} of {judged}")


def _retention(classes: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    kept = [row for row in classes if wording.known(row["retention"])]
    if not kept:
        return _gate("Classes", SKIPPED, "there are no labels")
    worst = min(kept, key=lambda row: row["retention"])
    told = f"least is left of {worst['label']}: {wording.percent(worst['retention'])}"
    return _gate("Classes", FAIL if not worst["kept"] else PASS, told)


def _checks(checks: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    broken = [check["name"] for check in checks if check["status"] == "error"]
    skipped = [check["name"] for check in checks if check["status"] == "skipped"]
    done = len(checks) - len(broken) - len(skipped)
    if broken:
        return _gate("Checks", FAIL, "failed to run: " + ", ".join(map(wording.words, broken)))
    if skipped:
        return _gate(
            "Checks",
            WARN,
            f"{done} ran, {len(skipped)} skipped: " + ", ".join(map(wording.words, skipped)),
        )
    return _gate("Checks", PASS, f"all {done} ran")


def _effect(effect: Mapping[str, Any] | None) -> dict[str, str]:
    if not effect:
        return _gate("Effect", SKIPPED, "cleaning was not measured by a probe")
    told = (
        f"{effect['verdict']}: {wording.points(effect['value_points'])} points "
        f"({wording.points_range(effect['low_points'], effect['high_points'])})"
    )
    status = {"gain": PASS, "loss": FAIL}.get(effect["verdict"], NOTE)
    return _gate("Effect", status, told)
