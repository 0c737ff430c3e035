"""A map of points as inline SVG: thousands of points in a few strokes, the flagged ones by name."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from winnow.data.pages import wording
from winnow.data.pages.chart import at

_WIDTH, _HEIGHT, _MARGIN = 760, 520, 14
_COLOURS = {"label issue": "issue", "outlier": "outlier", "near duplicate": "near"}  # the rest is faint
_PLURALS = {"label issue": "suspected labels", "outlier": "outliers", "near duplicate": "near duplicates"}


def scatter(
    title: str,
    points: Sequence[Mapping[str, Any]],
    labels: Sequence[Mapping[str, Any]],
    counts: Mapping[str, int],
) -> Markup:
    """Draw points of the unit square, and names over them.

    Args:
        title: what a screen reader is told first.
        points: each `x`, `y` [0–1], `kind`; where it is flagged, `id`, `label`, `suggested`.
        labels: each `label`, `x`, `y`.
        counts: points of each kind.
    """
    points = [point for point in points if wording.known(point["x"]) and wording.known(point["y"])]
    if not points:
        return Markup('<p class="none">Nothing to show.</p>')
    rest = [point for point in points if point["kind"] not in _COLOURS]
    # One path of dots of no length, with round ends: a tenth of the bytes of as many circles.
    path = "".join(f"M{at(_x(point['x']))} {at(_y(point['y']))}h0" for point in rest)
    parts = [Markup('<path class="dots" d="{}"/>').format(path)] if path else []
    for kind, name in reversed(_COLOURS.items()):
        parts += [_flagged(point, name) for point in points if point["kind"] == kind]
    parts += [
        Markup('<text x="{}" y="{}" text-anchor="middle">{}</text>').format(
            at(_x(one["x"])), at(_y(one["y"]) + 4), _short(one["label"])
        )
        for one in labels
    ]
    told = ", ".join(f"{wording.count(counts[kind])} {_PLURALS[kind]}" for kind in _COLOURS)
    svg = Markup(
        '<svg class="map" viewBox="0 0 {} {}" role="img" aria-label="{}"><desc>{}</desc>{}</svg>'
    ).format(_WIDTH, _HEIGHT, title, f"{title}: {told}", Markup("").join(parts))
    return _legend(counts) + svg


def _flagged(point: Mapping[str, Any], name: str) -> Markup:
    said = f"{point['id']}: {point['label'] if point['label'] is not None else 'no label'}"
    if name == "issue" and point["suggested"] is not None:
        said += f" → {point['suggested']}"
    return Markup('<circle class="{}" cx="{}" cy="{}" r="4"><title>{}</title></circle>').format(
        name, at(_x(point["x"])), at(_y(point["y"])), said
    )


def _legend(counts: Mapping[str, int]) -> Markup:
    rows = [(_COLOURS[kind], _PLURALS[kind], counts[kind]) for kind in _COLOURS]
    rows.append(("rest", "others", counts["ordinary"]))
    return Markup('<ul class="legend">{}</ul>').format(
        Markup("").join(
            Markup('<li><i class="point {}"></i>{} <b>{}</b></li>').format(kind, text, wording.count(n))
            for kind, text, n in rows
            if n
        )
    )


def _x(share: float) -> float:
    return _MARGIN + share * (_WIDTH - 2 * _MARGIN)


def _y(share: float) -> float:
    return _HEIGHT - _MARGIN - share * (_HEIGHT - 2 * _MARGIN)


def _short(text: str, most: int = 18) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
