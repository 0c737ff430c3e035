"""Small charts as inline SVG: sharp at any size, readable without colour, and for screen readers.

Colours are CSS variables of the page (`s1`, `s2`, … are classes), so charts follow light and dark.
What is not a finite number is left out, never drawn.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from winnow.data.pages import wording
from winnow.data.pages.wording import Number

_WIDTH, _HEIGHT = 420, 230
_LOW = 120  # height of a histogram
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 20, 12, 36
_DIGITS = 3  # behind the point, of percents
COLOURS = 8  # that the page has names for: s1, s2, …

Scale = Callable[[Number], Number]


def ticks(low: Number, high: Number, about: int = 4) -> list[Number]:
    """Give round numbers whose first and last enclose low and high."""
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        pad = abs(low) * 0.05 or 0.5
        low, high = low - pad, high + pad
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]


def scale(low: Number, high: Number, start: Number, end: Number) -> Scale:
    """Give the map from values to coordinates that takes low to start and high to end."""
    span = (high - low) or 1.0
    return lambda value: start + (value - low) / span * (end - start)


def at(value: Number) -> str:
    """Write a coordinate: short, and the same on every machine."""
    return f"{value:.1f}".removesuffix(".0")


def line(
    title: str,
    series: Sequence[Mapping[str, Any]],
    *,
    x_label: str,
    percent: bool = False,
    whole_x: bool = False,
) -> Markup:
    """Draw lines over a common axis, with whiskers where a point has `low` and `high`.

    Args:
        title: what a screen reader is told first.
        series: each `name`, `points` (each `x`, `y` and perhaps `low`, `high`), perhaps `dashed`.
        x_label: what x counts.
        percent: y is a share [0–1].
        whole_x: x are whole numbers, each with a tick.
    """
    drawn = [{**one, "points": [p for p in one["points"] if _drawable(p)]} for one in series]
    points = [p for one in drawn for p in one["points"]]
    if not points:
        return Markup('<p class="none">Nothing was measured.</p>')
    ys = [p[key] for p in points for key in ("y", "low", "high") if wording.known(p.get(key))]
    y_ticks = ticks(min(ys), max(ys))
    xs = sorted({p["x"] for p in points})
    x_ticks = list(xs) if whole_x else _inside(xs[0], xs[-1])
    pad = 0.35 if whole_x else 0.0
    to_x = scale(xs[0] - pad, xs[-1] + pad, _LEFT, _WIDTH - _RIGHT)
    to_y = scale(y_ticks[0], y_ticks[-1], _HEIGHT - _BOTTOM, _TOP)
    body = [_axes(x_ticks, y_ticks, to_x, to_y, x_label, percent)]
    for index, one in enumerate(drawn):
        body.append(_series(one, index, to_x, to_y, whole_x, percent))
    told = "; ".join(_told(one, percent) for one in drawn if one["points"])
    legend = _legend(drawn) if len(drawn) > 1 else Markup("")
    return legend + _svg(title, told, body)


def histogram(
    title: str,
    edges: Sequence[Number],
    rest: Sequence[int],
    flagged: Sequence[int],
    thresholds: Sequence[Number],
) -> Markup:
    """Draw how often values occur, the flagged ones in a second colour, the thresholds as lines.

    Heights follow the square root of the counts, so that a handful of flagged samples is seen
    beside thousands of healthy ones.
    """
    tallest = max([a + b for a, b in zip(rest, flagged, strict=True)], default=0) or 1
    to_x = scale(edges[0], edges[-1], 8, _WIDTH - 8)
    body: list[Markup] = []
    for left, right, healthy, bad in zip(edges, edges[1:], rest, flagged, strict=False):
        if not healthy + bad:
            continue
        tall = max(math.sqrt((healthy + bad) / tallest) * (_LOW - 34), 2)
        red = max(tall * bad / (healthy + bad), 2) if bad else 0.0
        for kind, bottom, size in (("rest", 0.0, tall - red), ("flagged", tall - red, red)):
            if size > 0:
                body.append(
                    Markup('<rect class="{}" x="{}" y="{}" width="{}" height="{}"/>').format(
                        kind,
                        at(to_x(left)),
                        at(_LOW - 22 - bottom - size),
                        at(max(to_x(right) - to_x(left) - 1, 1)),
                        at(size),
                    )
                )
    body.append(Markup('<path class="axis" d="M8 {0}H{1}"/>').format(_LOW - 22, _WIDTH - 8))
    for value in thresholds:
        body.append(Markup('<path class="threshold" d="M{0} 4V{1}"/>').format(at(to_x(value)), _LOW - 22))
    for value in _inside(edges[0], edges[-1]):
        body.append(_label(to_x(value), _LOW - 6, wording.number(value), "middle"))
    told = f"{sum(flagged)} of {sum(rest) + sum(flagged)} values are flagged"
    return _svg(title, told, body, _LOW)


def _drawable(point: Mapping[str, Any]) -> bool:
    return wording.known(point.get("x")) and wording.known(point.get("y"))


def _inside(low: Number, high: Number) -> list[Number]:
    return [value for value in ticks(low, high) if low <= value <= high] or [low]


def _label(x: Number, y: Number, text: str, anchor: str) -> Markup:
    return Markup('<text x="{}" y="{}" text-anchor="{}">{}</text>').format(at(x), at(y), anchor, text)


def _svg(title: str, told: str, body: Sequence[Markup], height: int = _HEIGHT) -> Markup:
    return Markup(
        '<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}"><desc>{}</desc>{}</svg>'
    ).format(_WIDTH, height, title, told, Markup("").join(body))


def _axes(
    x_ticks: Sequence[Number],
    y_ticks: Sequence[Number],
    to_x: Scale,
    to_y: Scale,
    x_label: str,
    percent: bool,
) -> Markup:
    parts = []
    for value in y_ticks:
        y = to_y(value)
        parts.append(Markup('<path class="grid" d="M{} {}H{}"/>').format(_LEFT, at(y), _WIDTH - _RIGHT))
        parts.append(_label(_LEFT - 8, y + 4, tick_text(value, y_ticks, percent), "end"))
    for value in x_ticks:
        parts.append(_label(to_x(value), _HEIGHT - _BOTTOM + 18, wording.number(value), "middle"))
    parts.append(
        Markup('<text class="axis-name" x="{}" y="{}" text-anchor="end">{}</text>').format(
            _WIDTH - _RIGHT, _HEIGHT - 3, x_label
        )
    )
    return Markup("").join(parts)


def tick_text(value: Number, all_ticks: Sequence[Number], percent: bool) -> str:
    """Write a tick, with as many digits as tell it from its neighbours."""
    step = all_ticks[1] - all_ticks[0]
    if not percent:
        return wording.number(value, 3 + max(0, round(math.log10(abs(all_ticks[-1]) / step + 1))))
    # 92.5 % must not be called 92: as many digits as a step has.
    sizes = [step * 10 ** (digits + 2) for digits in range(_DIGITS)]
    whole = [digits for digits, size in enumerate(sizes) if abs(size - round(size)) < 1e-6 <= size]
    return wording.percent(value, whole[0] if whole else _DIGITS)


def _series(
    one: Mapping[str, Any],
    index: int,
    to_x: Scale,
    to_y: Scale,
    marked: bool,
    percent: bool,
) -> Markup:
    points = one["points"]
    if not points:
        return Markup("")
    # Whiskers of several series at one x would hide each other.
    shift = (index - 1) * 6 if marked else 0
    path = "L".join(f"{at(to_x(p['x']) + shift)} {at(to_y(p['y']))}" for p in points)
    kind = "line dashed" if one.get("dashed") else "line"
    colour = index % COLOURS + 1
    parts = [Markup('<path class="{} s{}" d="M{}"/>').format(kind, colour, path)]
    for point in points if marked else ():
        x, y = to_x(point["x"]) + shift, to_y(point["y"])
        if wording.known(point.get("low")) and wording.known(point.get("high")):
            parts.append(
                Markup('<path class="whisker s{}" d="M{} {}V{}"/>').format(
                    colour, at(x), at(to_y(point["low"])), at(to_y(point["high"]))
                )
            )
        shown = wording.percent(point["y"]) if percent else wording.number(point["y"])
        parts.append(
            Markup('<circle class="s{}" cx="{}" cy="{}" r="3.5"><title>{}: {}</title></circle>').format(
                colour, at(x), at(y), one["name"], shown
            )
        )
    return Markup("").join(parts)


def _told(one: Mapping[str, Any], percent: bool) -> str:
    show: Callable[[Any], str] = wording.percent if percent else wording.number
    return f"{one['name']} from {show(one['points'][0]['y'])} to {show(one['points'][-1]['y'])}"


def _legend(series: Sequence[Mapping[str, Any]]) -> Markup:
    return Markup('<ul class="legend">{}</ul>').format(
        Markup("").join(
            Markup('<li><i class="key s{}{}"></i>{}</li>').format(
                index % COLOURS + 1, " dashed" if one.get("dashed") else "", one["name"]
            )
            for index, one in enumerate(series)
            if one["points"]
        )
    )
