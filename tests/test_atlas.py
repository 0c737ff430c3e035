from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from winnow.data import store
from winnow.data.pages import atlas, plot


def table(n: int, flagged: int) -> pd.DataFrame:
    made = pd.DataFrame(
        {"id": [f"{i:020x}" for i in range(n)], "given": [f"class {i % 3}" for i in range(n)]}
    )
    made["suggested_label"], made["is_label_issue"] = "other", made.index < flagged
    made["is_outlier"], made["near_duplicate_set"] = False, -1
    return made


def write(out: Path, vectors: np.ndarray) -> Path:
    with store.vector_writer(out) as writer:
        for i, vector in enumerate(vectors):
            writer.add(f"{i:020x}", vector.astype(np.float32))
    return out


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    random = np.random.default_rng(0)
    centres = random.normal(0, 8, (3, 16))
    vectors = np.array([centres[i % 3] + random.normal(0, 1, 16) for i in range(240)])
    return write(tmp_path_factory.mktemp("embed") / "embeddings", vectors)


def test_samples_that_are_alike_lie_side_by_side(embedded: Path) -> None:
    drawn = atlas.draw(table(240, 0), embedded, samples=240, seed=0)
    places = np.array([[point["x"], point["y"]] for point in drawn["points"]])
    far = np.linalg.norm(places[:, None] - places[None], axis=2) + 9 * np.eye(240)
    assert np.mean(far.argmin(axis=1) % 3 == np.arange(240) % 3) > 0.95
    assert {row["label"] for row in drawn["labels"]} == {"class 0", "class 1", "class 2"}


def test_a_map_is_the_same_from_run_to_run_and_lies_on_the_unit_square(embedded: Path) -> None:
    first, second = (atlas.draw(table(240, 30), embedded, samples=120, seed=5) for _ in range(2))
    assert first == second
    for axis in "xy":
        values = [point[axis] for point in first["points"]]
        assert min(values) == 0 and max(values) == 1


def test_flagged_samples_are_on_the_map_first_but_leave_room_for_others(embedded: Path) -> None:
    few = atlas.draw(table(240, 20), embedded, samples=100, seed=0)
    many = atlas.draw(table(240, 200), embedded, samples=100, seed=0)
    kinds = [[point["kind"] for point in drawn["points"]] for drawn in (few, many)]
    assert [len(one) for one in kinds] == [100, 100]
    assert kinds[0].count("label issue") == 20
    assert kinds[1].count("label issue") == 60  # there are 40 others
    assert all(("id" in point) == (point["kind"] != "ordinary") for point in few["points"])


def test_what_cannot_be_drawn_is_skipped_with_its_reason(tmp_path: Path) -> None:
    assert atlas.draw(table(5, 0), tmp_path, samples=9, seed=0)["status"] == "skipped"
    same = write(tmp_path / "same", np.ones((20, 4)))
    assert atlas.draw(table(20, 0), same, samples=20, seed=0)["reason"] == "all embeddings are the same"
    absent = atlas.draw(table(20, 0), tmp_path / "absent", samples=20, seed=0)
    assert absent["status"] == "error" and absent["points"] == []


def test_a_drawing_escapes_names_and_leaves_out_what_is_no_number() -> None:
    points = [
        {"x": 0.1, "y": 0.2, "kind": "ordinary"},
        {"x": 0.3, "y": 0.4, "kind": "label issue", "id": "<b>", "label": None, "suggested": "<script>"},
        {"x": None, "y": 0.5, "kind": "ordinary"},
    ]
    counts = {"label issue": 1, "outlier": 0, "near duplicate": 0, "ordinary": 1}
    drawn = plot.scatter("a map", points, [{"label": "<i>" * 20, "x": 0.5, "y": 0.5}], counts)
    assert "<script>" not in drawn and "<b>: " not in drawn and "<i>" not in drawn.partition("<svg")[2]
    assert drawn.count("h0") == 1 and drawn.count("<circle") == 1
    assert "no label → &lt;script&gt;" in drawn
