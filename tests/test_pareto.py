import re

from hypothesis import given
from hypothesis import strategies as st
from test_page import ANY, require_drawable

from winnow.data.pages import pareto, wording

COSTS = st.integers(-5, 5)  # few, so that many are equal
POINT = st.fixed_dictionaries({"x": ANY, "y": ANY, "low": ANY, "high": ANY})


@given(st.lists(st.tuples(COSTS, COSTS), max_size=12))
def test_the_front_is_what_no_other_point_beats(points: list[tuple[int, int]]) -> None:
    def beaten(one: tuple[int, int]) -> bool:
        return any(cost <= one[0] and worth >= one[1] and (cost, worth) != one for cost, worth in points)

    assert pareto.front(points) == [not beaten(point) for point in points]


@given(st.floats(1e-6, 1e12), st.floats(1, 1e9))
def test_an_axis_of_powers_has_two_to_six_round_ticks(low: float, times: float) -> None:
    high = low * max(times, 3.0)
    found = pareto.powers(low, high)
    assert 2 <= len(found) <= 6
    assert found == sorted(set(found))
    assert all(low <= value <= high for value in found)
    assert all(float(f"{value:.2g}") == value for value in found)


@given(st.lists(POINT, max_size=6))
def test_what_is_no_number_or_costs_nothing_has_no_place(points: list[dict]) -> None:
    drawn = scatter([{"name": f"model {i}", "group": i % 2, **point} for i, point in enumerate(points)])
    require_drawable(drawn)
    placed = [p for p in points if wording.known(p["x"]) and p["x"] > 1e-100 and wording.known(p["y"])]
    assert drawn.count("<circle") == len(placed)


def scatter(points: list[dict]) -> str:
    return str(pareto.scatter("accuracy against bytes", points, x_label="bytes", text=wording.size))


def test_a_screen_reader_is_told_the_front_from_cheap_to_dear() -> None:
    found = scatter(
        [
            {"name": "teacher", "group": "float", "x": 8000, "y": 0.95, "low": 0.9, "high": 0.97},
            {"name": "beaten", "group": "int8", "x": 2000, "y": 0.8},
            {"name": "bundle", "group": "int8", "x": 250, "y": 0.9},
        ]
    )
    said = "bundle (90.0\u202f%, 250\u202fB), teacher (95.0\u202f%, 8\u202fkB)"
    assert f"<desc>accuracy against bytes; on the front: {said}</desc>" in found
    assert "teacher: 95.0\u202f% (90.0–97.0\u202f%), 8\u202fkB" in found
    assert found.count("beaten") == 3  # its style, its tooltip and its name
    assert found.count('class="whisker') == 1
    assert found.count("<li>") == 2


@given(st.lists(st.tuples(st.floats(1, 1e6), st.floats(0, 1)), min_size=1, max_size=20))
def test_names_hide_neither_points_nor_each_other(points: list[tuple[float, float]]) -> None:
    found = scatter([{"name": f"n{i:02}", "group": "", "x": x, "y": y} for i, (x, y) in enumerate(points)])
    marks = [(float(x), float(y)) for x, y in re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', found)]
    boxes = []
    for x, y, anchor in re.findall(
        r'"point-name" x="([\d.-]+)" y="([\d.-]+)" text-anchor="(\w+)">n\d\d<', found
    ):
        wide = 3 * 5.9
        left = float(x) - {"start": 0.0, "middle": wide / 2, "end": wide}[anchor]
        boxes.append((left, float(y) - 10.5, left + wide, float(y) + 2.5))
    assert len(boxes) <= 12
    slack = 0.2  # coordinates are rounded
    for number, (left, top, right, bottom) in enumerate(boxes):
        assert left >= 0 and right <= 420.2
        for a, b, c, d in boxes[:number]:
            assert min(right, c) - max(left, a) <= slack or min(bottom, d) - max(top, b) <= slack
        inside = [1 for x, y in marks if left < x < right and top < y < bottom]
        assert not inside


def test_names_of_people_are_text() -> None:
    found = scatter([{"name": "<script>", "group": "<b>", "x": 1, "y": 0.5}])
    assert "<script>" not in found and "&lt;script&gt;" in found


def test_a_group_has_the_same_colour_in_both_charts() -> None:
    rows = [
        {"name": "a", "group": "float", "accuracy": 0.9, "bytes": 900, "ms": 2.0},
        {"name": "b", "group": "after training", "accuracy": 0.8, "bytes": 300, "ms": None},
        {"name": "c", "group": "dense", "accuracy": 0.7, "bytes": 200, "ms": 1.0},
    ]
    charts = [pareto.scatter("", pareto.points(rows, cost), x_label="", text=str) for cost in ("bytes", "ms")]
    assert all('<i class="spot s3"></i>dense' in chart for chart in charts)
    assert "after training" in charts[0] and "after training" not in charts[1]
