"""Gates: the numbers that decide whether data may be used, each with its limits from params.yaml."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from winnow.data.pages import wording
from winnow.data.pages.wording import Number
from winnow.data.stage import BadInput

PASS, WARN, FAIL, SKIPPED = "pass", "warn", "fail", "skipped"
AT_MOST, AT_LEAST = "at most", "at least"


@dataclass(frozen=True)
class Limits:
    """Where a gate warns and where it fails; null, or no limit, is never.

    Attributes:
        warn: the last value that passes.
        fail: the last value that only warns.
    """

    warn: Number | None = None
    fail: Number | None = None


@dataclass(frozen=True)
class Found:
    """What a gate looked at: a value, or the reason why there is none.

    Attributes:
        value: None if nothing was measured.
        text: what the value is about, or the reason.
        broken: nothing was measured because something went wrong.
    """

    value: Number | None
    text: str
    broken: bool = False


@dataclass(frozen=True)
class Gate:
    """A question to a report.

    Attributes:
        title: for people.
        section: the part of the report that tells more.
        unit: `share`, `points` or `count`.
        rule: whether its limits are `at most` or `at least`.
        look: finds the value.
    """

    title: str
    section: str
    unit: str
    rule: str
    look: Callable[[Mapping[str, Any]], Found]


def judge(
    report: Mapping[str, Any], limits: Mapping[str, Limits], known: Mapping[str, Gate]
) -> list[dict[str, Any]]:
    """Judge a report by every gate that has limits, in the order of `known`.

    Raises:
        BadInput: if a gate is not known, or warns later than it fails.
    """
    unknown = sorted(set(limits) - set(known))
    if unknown:
        raise BadInput(f"params.yaml: report.gates: no gate {unknown[0]!r}; there are {sorted(known)}")
    return [
        _judged(name, gate, limits[name], gate.look(report)) for name, gate in known.items() if name in limits
    ]


def _judged(name: str, gate: Gate, limits: Limits, found: Found) -> dict[str, Any]:
    sign = 1 if gate.rule == AT_MOST else -1
    if limits.warn is not None and limits.fail is not None and sign * limits.warn > sign * limits.fail:
        raise BadInput(
            f"params.yaml: report.gates.{name}: warns at {limits.warn:g}, after it fails at {limits.fail:g}"
        )

    def beyond(limit: Number | None) -> bool:
        return limit is not None and found.value is not None and sign * found.value > sign * limit

    if found.value is None:
        status = FAIL if found.broken else SKIPPED
    else:
        status = FAIL if beyond(limits.fail) else WARN if beyond(limits.warn) else PASS
    return {
        "name": name,
        "title": gate.title,
        "section": gate.section,
        "status": status,
        "value": found.value,
        "unit": gate.unit,
        "rule": gate.rule,
        "warn": limits.warn,
        "fail": limits.fail,
        "text": found.text,
    }


def verdict(gates: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Sum gates up: `fail` if one fails, else `warn` if one warns, else `pass`."""
    counts = {
        status: sum(gate["status"] == status for gate in gates) for status in (PASS, WARN, FAIL, SKIPPED)
    }
    return {"status": FAIL if counts[FAIL] else WARN if counts[WARN] else PASS, **counts}


def shown(value: Number | None, unit: str) -> str:
    """Write a gate's value or limit."""
    if unit == "share":
        return wording.percent(value)
    if unit == "points":
        return wording.points(value)
    return wording.number(value)


def told(gate: Mapping[str, Any]) -> str:
    """Write a gate in a line: Label noise: 10.4 % of 3,000 labels are wrong, by estimate."""
    value = "" if gate["value"] is None else f"{shown(gate['value'], gate['unit'])} "
    return f"{gate['title']}: {value}{gate['text']}"


def worst(statuses: Iterable[str]) -> str:
    """Give the status that needs attention first."""
    order = ("error", FAIL, WARN, PASS, "ok", SKIPPED)
    return min(statuses, key=order.index, default=SKIPPED)
