import base64
import hashlib
import math
import re
from html.parser import HTMLParser

import jinja2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from winnow.data.pages import bars, chart, page, wording

ANY = st.one_of(st.none(), st.floats(), st.integers(-(10**9), 10**9))
POINTS = st.fixed_dictionaries({"x": ANY, "y": ANY, "low": ANY, "high": ANY})


class Reader(HTMLParser):
    """Collects what a page would fetch, run or link to, and complains about nothing."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        given = dict(attrs)
        self.fetched += [v for k, v in attrs if k in {"src", "srcset", "data", "poster"} and v]
        if tag == "a":
            self.links.append(given["href"] or "")
        if given.get("id"):
            self.ids.append(given["id"] or "")
        assert not [key for key, _ in attrs if key.startswith("on")], attrs


def require_self_contained(html: str) -> None:
    """Assert that a page fetches nothing and runs one script, whose hash its policy names."""
    reader = Reader(html)
    assert all(url.startswith("data:") for url in reader.fetched)
    assert not {"link", "iframe", "object", "embed", "base", "form"} & set(reader.tags)
    assert reader.tags.count("script") == 1
    assert "@import" not in html and "url(" not in html
    script = re.search(r"<script>(.*)</script>", html, re.S)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert f"script-src &#39;sha256-{digest}&#39;" in html
    assert "default-src &#39;none&#39;" in html
    assert not re.search(r"\b(nan|inf|undefined|Undefined)\b", html)
    assert len(reader.ids) == len(set(reader.ids))
    anchors = [link[1:] for link in reader.links if link.startswith("#")]
    assert set(anchors) <= set(reader.ids)


def test_an_empty_index_is_a_self_contained_page() -> None:
    require_self_contained(page.render("index.html.jinja", entries=[]))


def test_refuses_to_show_what_it_was_not_given() -> None:
    with pytest.raises(jinja2.UndefinedError):
        page.render("index.html.jinja")


@given(st.lists(st.lists(POINTS, max_size=5), max_size=3), st.booleans())
def test_lines_never_draw_what_is_no_number(series: list[list[dict]], whole_x: bool) -> None:
    named = [{"name": f"line {i}", "points": points} for i, points in enumerate(series)]
    require_drawable(chart.line("a chart", named, x_label="step", whole_x=whole_x))


@given(st.lists(st.fixed_dictionaries({"value": ANY, "low": ANY, "high": ANY})))
def test_bars_never_draw_what_is_no_number(rows: list[dict]) -> None:
    labelled = [{"label": f"row {i}", **row} for i, row in enumerate(rows)]
    require_drawable(bars.bars(labelled, text=wording.number))
    require_drawable(bars.dots(labelled, text=wording.number))
    named = [{"name": row["label"], "value": row["value"]} for row in labelled]
    require_drawable(bars.stacked("parts", named, text=wording.size))


def require_drawable(svg: str) -> None:
    assert not re.search(r"\b(nan|inf|None)\b", svg)
    for value in re.findall(r'(?: x| y|width|height|cx|cy)="([^"]*)"', svg):
        assert math.isfinite(float(value))


def test_charts_escape_their_names() -> None:
    rows = [{"label": "<script>", "name": "<script>", "value": 1.0, "note": "<script>"}]
    lines = [{"name": "<script>", "points": [{"x": 0, "y": 1}]}] * 2
    drawn = [
        bars.bars(rows, text=wording.number),
        bars.dots(rows, text=wording.number),
        bars.stacked("<script>", rows, text=wording.number),
        chart.line("<script>", lines, x_label="<script>"),
        chart.histogram("<script>", [0, 1], [1], [1], [0.5]),
    ]
    for svg in drawn:
        assert "<script>" not in svg
        assert 'role="img" aria-label="' in svg


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_ticks_enclose_the_values_and_are_few(a: float, b: float) -> None:
    low, high = sorted((a, b))
    found = chart.ticks(low, high)
    slack = 1e-6 * max(abs(low), abs(high), 1)
    assert found[0] <= low + slack and found[-1] >= high - slack
    assert 2 <= len(found) <= 8
    assert found == sorted(set(found))


@given(st.floats(0, 1), st.floats(0.002, 1))
def test_ticks_of_percents_say_where_they_are(low: float, span: float) -> None:
    found = chart.ticks(low, low + span)
    for value in found:
        shown = float(chart.tick_text(value, found, True).removesuffix("\u202f%"))
        assert shown == pytest.approx(100 * value, abs=1e-6)


def test_parts_of_a_stack_fill_its_width() -> None:
    parts = [{"name": f"part {i}", "value": i + 1} for i in range(20)]
    svg = bars.stacked("parts", parts, text=wording.size)
    widths = [float(width) for width in re.findall(r'width="([\d.]+)" height="28"', svg)]
    assert len(widths) == 8  # as many as there are colours; the rest is one part
    assert sum(widths) == pytest.approx(1000, abs=2 * len(widths) + 1)
    assert "13 smaller parts" in svg


def test_the_tallest_bar_of_a_histogram_fills_it_and_a_single_sample_is_seen() -> None:
    svg = chart.histogram("words", [0, 1, 2], [10_000, 0], [0, 1], [1.5])
    heights = [float(height) for height in re.findall(r'height="([\d.]+)"', svg)]
    assert max(heights) > 80
    assert min(heights) >= 2
    assert svg.count('class="flagged"') == 1
    assert svg.count('class="threshold"') == 1


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (wording.percent(0.9534), "95.3\u202f%"),
        (wording.percent(0.0), "0.0\u202f%"),
        (wording.percent(None), "–"),
        (wording.percent(math.nan), "–"),
        (wording.percent_range(0.941, 0.964), "94.1–96.4\u202f%"),
        (wording.points(1.26), "+1.3"),
        (wording.points(-0.26), "−0.3"),
        (wording.points(-0.01), "0.0"),
        (wording.points_range(-0.31, 1.94), "−0.3 to +1.9"),
        (wording.count(12345), "12,345"),
        (wording.count(0), "0"),
        (wording.number(0.03124), "0.0312"),
        (wording.number(1500.0), "1,500"),
        (wording.number(0.5), "0.5"),
        (wording.number(-3e-7), "−3.00e−07"),
        (wording.size(999), "999\u202fB"),
        (wording.size(999_600), "1\u202fMB"),
        (wording.size(1_234_567), "1.23\u202fMB"),
        (wording.plural(1, "class", "classes"), "1 class"),
        (wording.plural(0, "class", "classes"), "0 classes"),
    ],
)
def test_numbers_are_written_for_people(written: str, expected: str) -> None:
    assert written == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cannot read /home/me/x.png", "cannot read …/x.png"),
        ("C:\\Users\\me\\x.png is broken", "…/x.png is broken"),
        ("file:///home/me/x.png", "…/x.png"),
        ("train and/or test, 3/broken.png", "train and/or test, 3/broken.png"),
        ("see https://example.org/a/b", "see https://example.org/a/b"),
    ],
)
def test_folders_of_a_machine_are_taken_out_of_texts(text: str, expected: str) -> None:
    assert wording.without_folders(text) == expected


def test_a_source_loses_its_folders_only_if_they_are_a_machines() -> None:
    assert wording.file_name("/home/Jane Doe/x y.png") == "…/x y.png"
    assert wording.file_name("file:///home/Jane Doe/x.png") == "…/x.png"
    assert wording.file_name("D:\\Jane Doe\\x.png") == "…/x.png"
    assert wording.file_name("digits/0001.png") == "digits/0001.png"


def test_numbers_of_a_report_are_rounded_wherever_they_stand() -> None:
    content = {"a": [1 / 3, {"b": 2e-9 / 3}], "c": 7, "d": "1.23456789", "e": None, "f": True}
    expected = {"a": [0.33333333, {"b": 6.6666667e-10}], "c": 7, "d": "1.23456789"}
    assert page.rounded(content) == expected | {"e": None, "f": True}
