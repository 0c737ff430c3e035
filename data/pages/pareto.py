"""What accuracy costs, as inline SVG: variants as points with intervals, and the front that none beats."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from winnow.data.pages import wording
from winnow.data.pages.chart import COLOURS, Scale, at, scale, tick_text, ticks
from winnow.data.pages.wording import Number

_WIDTH, _HEIGHT = 420, 290
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 16, 14, 40
# Of an axis in powers of ten, from coarse to fine.
_LADDERS = ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7))
_NARROWEST = 3.0  # largest over smallest: on any such axis the finest ladder has two ticks
_FEW, _MANY = 3, 6  # ticks
_ROOM = 26  # between an axis and the first point: half a short name
_LETTER = 5.9  # width of one, on average [units of the drawing]
_LINE = 13.0  # height of a name

Formatter = Callable[[Any], str]


class Box(NamedTuple):
    """A rectangle that a name or a mark takes up."""

    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: "Box") -> float:
        """Give the area that two have in common."""
        wide = min(self.right, other.right) - max(self.left, other.left)
        tall = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(wide, 0.0) * max(tall, 0.0)


def front(points: Sequence[tuple[Number, Number]]) -> list[bool]:
    """Say of each point whether it is on the Pareto front: none is at least as good in both, but its equal.

    Args:
        points: each a cost, of which less is better, and a worth, of which more is better.
    """
    on = [False] * len(points)
    best, cost_of_best = -math.inf, -math.inf
    for index in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        cost, worth = points[index]
        if worth > best:
            best, cost_of_best = worth, cost
            on[index] = True
        else:
            on[index] = (cost, worth) == (cost_of_best, best)
    return on


def ranked(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Say of each record whether it is on the front: `best` at `bytes`, and at `ms`.

    Args:
        records: each `accuracy`, and `bytes` and `ms` if it has them; without one it is not on that front.
    """
    best: dict[str, set[int]] = {}
    for cost in ("bytes", "ms"):
        known = [i for i, one in enumerate(records) if _drawable({"x": one.get(cost), "y": one["accuracy"]})]
        on = front([(records[i][cost], records[i]["accuracy"]) for i in known])
        best[cost] = {i for i, is_best in zip(known, on, strict=True) if is_best}
    return [{**one, "best": {cost: i in best[cost] for cost in best}} for i, one in enumerate(records)]


def points(records: Sequence[Mapping[str, Any]], cost: str) -> list[dict[str, Any]]:
    """Give records as `scatter` takes them, with one of their costs."""
    return [{**one, "x": one.get(cost), "y": one["accuracy"]} for one in records]


def scatter(
    title: str,
    points: Sequence[Mapping[str, Any]],
    *,
    x_label: str,
    text: Formatter,
    named: int = 12,
) -> Markup:
    """Draw accuracy against what it costs, on an axis of powers, with whiskers and the Pareto front.

    Args:
        title: what a screen reader is told first.
        points: each `name`, `group`, `x` (a cost above 0), `y` [0–1], perhaps `low`, `high`. A group has
            a colour. What has no place on the axes is left out.
        x_label: what x is.
        text: writes x.
        named: points whose names are drawn at most, those of the front first; all have a tooltip.
    """
    # The colour is the same in a chart of another cost, which other points may lack.
    groups = dict.fromkeys(str(point["group"]) for point in points)
    colours = {group: number % COLOURS + 1 for number, group in enumerate(groups)}
    points = [point for point in points if _drawable(point)]
    if not points:
        return Markup('<p class="none">Nothing was measured.</p>')
    on = front([(point["x"], point["y"]) for point in points])
    ys = [point[key] for point in points for key in ("y", "low", "high") if wording.known(point.get(key))]
    y_ticks = ticks(min(ys), max(ys))
    to_y = scale(y_ticks[0], y_ticks[-1], _HEIGHT - _BOTTOM, _TOP)
    low, high = _spread([point["x"] for point in points])
    along = scale(math.log10(low), math.log10(high), _LEFT + _ROOM, _WIDTH - _RIGHT - _ROOM)

    def to_x(value: Number) -> Number:
        return along(math.log10(value))

    body = [_axes(powers(low, high), y_ticks, to_x, to_y, x_label, text), _stairs(points, on, to_x, to_y)]
    order = sorted(range(len(points)), key=lambda i: (on[i], -points[i]["x"]))  # the front on top
    for index in order:
        colour = colours[str(points[index]["group"])]
        body.append(_mark(points[index], on[index], colour, to_x, to_y, text))
    body += _names(points, on, to_x, to_y, named)
    told = ", ".join(
        f"{point['name']} ({wording.percent(point['y'])}, {text(point['x'])})"
        for point, best in sorted(zip(points, on, strict=True), key=lambda pair: pair[0]["x"])
        if best
    )
    drawn = {str(point["group"]) for point in points}
    return _legend({group: colour for group, colour in colours.items() if group in drawn}) + Markup(
        '<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}"><desc>{}</desc>{}</svg>'
    ).format(_WIDTH, _HEIGHT, title, f"{title}; on the front: {told}", Markup("").join(body))


def powers(low: Number, high: Number) -> list[float]:
    """Give round numbers between two, evenly spread over powers of ten as far as round numbers can be."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    found: list[float] = []
    for ladder in _LADDERS:
        found = [float(f"{m}e{power}") for power in range(first, last + 1) for m in ladder]
        found = [value for value in found if low <= value <= high]
        if len(found) >= _FEW:
            break
    return found[:: -(-len(found) // _MANY)] if found else [low]


def _drawable(point: Mapping[str, Any]) -> bool:
    x = point.get("x")
    return wording.known(x) and x > 1e-100 and wording.known(point.get("y"))  # type: ignore[operator]


def _spread(xs: Sequence[Number]) -> tuple[float, float]:
    """Give the ends of an axis around some values, so wide that it has ticks."""
    low, high = min(xs) / 1.15, max(xs) * 1.15
    short = math.sqrt(max(_NARROWEST * low / high, 1.0))
    return low / short, high * short


def _axes(
    x_ticks: Sequence[Number],
    y_ticks: Sequence[Number],
    to_x: Scale,
    to_y: Scale,
    x_label: str,
    text: Formatter,
) -> Markup:
    floor = _HEIGHT - _BOTTOM
    parts = []
    for value in y_ticks:
        parts.append(
            Markup('<path class="grid" d="M{} {}H{}"/>').format(_LEFT, at(to_y(value)), _WIDTH - _RIGHT)
        )
        parts.append(_written(_LEFT - 8, to_y(value) + 4, tick_text(value, y_ticks, True), "end"))
    for value in x_ticks:
        parts.append(Markup('<path class="axis" d="M{} {}v5"/>').format(at(to_x(value)), floor))
        parts.append(_written(to_x(value), floor + 19, text(value), "middle"))
    name = Markup('<text class="axis-name" x="{}" y="{}" text-anchor="end">{}</text>')
    return Markup("").join([*parts, name.format(_WIDTH - _RIGHT, _HEIGHT - 3, x_label)])


def _written(x: Number, y: Number, text: str, anchor: str, kind: str = "") -> Markup:
    named = Markup(' class="{}"').format(kind) if kind else Markup("")
    return Markup('<text{} x="{}" y="{}" text-anchor="{}">{}</text>').format(
        named, at(x), at(y), anchor, text
    )


def _stairs(points: Sequence[Mapping[str, Any]], on: Sequence[bool], to_x: Scale, to_y: Scale) -> Markup:
    """Draw what can be had for a cost: from each point of the front on, until the next is better."""
    best = sorted((to_x(p["x"]), to_y(p["y"])) for p, is_best in zip(points, on, strict=True) if is_best)
    path = f"M{at(best[0][0])} {at(best[0][1])}" + "".join(f"H{at(x)}V{at(y)}" for x, y in best[1:])
    return Markup('<path class="front" d="{}H{}"/>').format(path, _WIDTH - _RIGHT)


def _mark(
    point: Mapping[str, Any], best: bool, colour: int, to_x: Scale, to_y: Scale, text: Formatter
) -> Markup:
    x, y = to_x(point["x"]), to_y(point["y"])
    said = f"{point['name']}: {wording.percent(point['y'])}"
    drawn = Markup("")
    if wording.known(point.get("low")) and wording.known(point.get("high")):
        said += f" ({wording.percent_range(point['low'], point['high'])})"
        drawn = Markup('<path class="whisker s{}" d="M{} {}V{}"/>').format(
            colour, at(x), at(to_y(point["low"])), at(to_y(point["high"]))
        )
    return drawn + Markup('<circle class="s{}{}" cx="{}" cy="{}" r="{}"><title>{}</title></circle>').format(
        colour, "" if best else " beaten", at(x), at(y), 5 if best else 4, f"{said}, {text(point['x'])}"
    )


def _names(
    points: Sequence[Mapping[str, Any]], on: Sequence[bool], to_x: Scale, to_y: Scale, named: int
) -> list[Markup]:
    """Write names beside their points, where they hide nothing; one that has no room stays away."""
    at_point = [(to_x(point["x"]), to_y(point["y"])) for point in points]
    taken = [Box(x - 5, y - 5, x + 5, y + 5) for x, y in at_point]
    written = []
    for index in sorted(range(len(points)), key=lambda i: (not on[i], points[i]["x"]))[:named]:
        (x, y), name = at_point[index], str(points[index]["name"])
        wide = _LETTER * len(name)
        others = [box for number, box in enumerate(taken) if number != index]
        for left, anchor, start in (
            (x + 9, "start", x + 9),
            (x - 9 - wide, "end", x - 9),
            (x - wide / 2, "middle", x),
        ):
            tops = (y - _LINE / 2,) if anchor != "middle" else (y - 7 - _LINE, y + 7)
            boxes = [Box(left, top, left + wide, top + _LINE) for top in tops]
            free = [box for box in boxes if _fits(box) and not any(box.overlap(one) for one in others)]
            if free:
                taken.append(free[0])
                written.append(_written(start, free[0].top + 10.5, name, anchor, "point-name"))
                break
    return written


def _fits(box: Box) -> bool:
    return box.left >= _LEFT and box.right <= _WIDTH and box.top >= 0 and box.bottom <= _HEIGHT - _BOTTOM


def _legend(colours: Mapping[str, int]) -> Markup:
    if len(colours) < 2:
        return Markup("")
    return Markup('<ul class="legend">{}</ul>').format(
        Markup("").join(
            Markup('<li><i class="spot s{}"></i>{}</li>').format(colour, group)
            for group, colour in colours.items()
        )
    )
