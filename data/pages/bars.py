"""Bars as inline SVG in rows of HTML: labels keep their size while the page stretches the bars."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from winnow.data.pages import wording
from winnow.data.pages.chart import COLOURS, Scale, at, scale, ticks
from winnow.data.pages.wording import Number

Formatter = Callable[[Any], str]
_FULL = 1000  # width of a bar in its own units


def bars(rows: Sequence[Mapping[str, Any]], *, text: Formatter) -> Markup:
    """Draw horizontal bars that begin at 0.

    Args:
        rows: from top to bottom, each `label`, `value`, perhaps `low`, `high`, `note`; an unknown
            value has no bar.
        text: writes a value.
    """
    ends = [row[key] for row in rows for key in ("value", "high") if wording.known(row.get(key))]
    full = max(ends, default=0.0) or 1.0
    return Markup('<div class="bars">{}</div>').format(Markup("").join(_bar(row, full, text) for row in rows))


def dots(rows: Sequence[Mapping[str, Any]], *, text: Formatter) -> Markup:
    """Draw values as marks with whiskers on an axis that need not begin at 0.

    Args:
        rows: from top to bottom, each `label`, `value`, perhaps `low`, `high`.
        text: writes a value, also at the ends of the axis.
    """
    ends = [row[k] for row in rows for k in ("value", "low", "high") if wording.known(row.get(k))]
    if not ends:
        return Markup('<p class="none">Nothing was measured.</p>')
    axis = ticks(min(ends), max(ends))
    to_x = scale(axis[0], axis[-1], 0, _FULL)
    grid = Markup('<path class="grid" d="{}"/>').format("".join(f"M{at(to_x(x))} 0V24" for x in axis))
    drawn = [_row(row, grid + _dot(row, to_x), text) for row in rows]
    ends_of = Markup('<div class="bar scale"><span></span><span><i>{}</i><i>{}</i></span></div>')
    return Markup('<div class="bars dots">{}{}</div>').format(
        Markup("").join(drawn), ends_of.format(text(axis[0]), text(axis[-1]))
    )


def stacked(title: str, parts: Sequence[Mapping[str, Any]], *, text: Formatter) -> Markup:
    """Draw one bar of parts, each `name` and `value`, with a legend of sizes and shares."""
    known = [part for part in parts if wording.known(part["value"]) and part["value"] > 0]
    total = sum(part["value"] for part in known)
    if not known:
        return Markup('<p class="none">Nothing to show.</p>')
    known.sort(key=lambda part: (-part["value"], part["name"]))
    if len(known) > COLOURS:
        rest = known[COLOURS - 1 :]
        other = {"name": f"{len(rest)} smaller parts", "value": sum(p["value"] for p in rest)}
        known = [*known[: COLOURS - 1], other]
    body, legend, start = [], [], 0.0
    for index, part in enumerate(known):
        width = part["value"] / total * _FULL
        told = f"{part['name']}: {text(part['value'])}, {wording.percent(part['value'] / total)}"
        body.append(
            Markup('<rect class="s{}" x="{}" width="{}" height="28"><title>{}</title></rect>').format(
                index + 1, at(start), at(max(width - 2, 0.5)), told
            )
        )
        legend.append(
            Markup('<li><i class="swatch s{}"></i>{} <b>{}</b> <small>{}</small></li>').format(
                index + 1,
                part["name"],
                text(part["value"]),
                wording.percent(part["value"] / total),
            )
        )
        start += width
    return Markup(
        '<svg class="stack" viewBox="0 0 {} 28" preserveAspectRatio="none" role="img" '
        'aria-label="{}">{}</svg><ul class="legend sizes">{}</ul>'
    ).format(_FULL, title, Markup("").join(body), Markup("").join(legend))


def _bar(row: Mapping[str, Any], full: Number, text: Formatter) -> Markup:
    body = Markup('<rect class="track" width="{}" height="24"/>').format(_FULL)
    to_x = scale(0, full, 0, _FULL)
    if wording.known(row["value"]):
        body += Markup('<rect class="fill" width="{}" height="24"/>').format(
            at(min(max(to_x(row["value"]), 0), _FULL))
        )
    return _row(row, body + _whisker(row, to_x), text)


def _dot(row: Mapping[str, Any], to_x: Scale) -> Markup:
    if not wording.known(row["value"]):
        return Markup("")
    return _whisker(row, to_x) + Markup('<path class="dot" d="M{} 5V19"/>').format(at(to_x(row["value"])))


def _whisker(row: Mapping[str, Any], to_x: Scale) -> Markup:
    if not (wording.known(row.get("low")) and wording.known(row.get("high"))):
        return Markup("")
    low, high = (at(min(max(to_x(row[end]), 0), _FULL)) for end in ("low", "high"))
    return Markup('<path class="whisker" d="M{0} 12H{1}M{0} 7V17M{1} 7V17"/>').format(low, high)


def _row(row: Mapping[str, Any], body: Markup, text: Formatter) -> Markup:
    shown = text(row["value"]) if wording.known(row["value"]) else wording.NOTHING
    return Markup(
        '<div class="bar"><span>{0}</span><svg viewBox="0 0 {1} 24" preserveAspectRatio="none" '
        'role="img" aria-label="{2}">{3}</svg>'
        '<span class="number">{4} <small>{5}</small></span></div>'
    ).format(row["label"], _FULL, f"{row['label']}: {shown}", body, shown, row.get("note") or "")
