import json
from pathlib import Path
from typing import Any

import planted
import pytest

from winnow.data.pages import effects


@pytest.fixture
def effect(tmp_path: Path) -> dict[str, Any]:
    planted.write_effect(tmp_path)
    return effects.read(tmp_path)


def test_the_headline_is_the_last_round_against_the_data_as_delivered(effect: dict[str, Any]) -> None:
    assert (effect["headline"]["arm"], effect["headline"]["against"]) == ("round@2", "delivered")
    assert effect["headline"]["value_points"] == pytest.approx(10)
    assert effect["over_random"]["against"] == "random_drop@2"


def test_the_other_measures_gain_stands_beside_the_headline(tmp_path: Path) -> None:
    planted.write_effect(tmp_path)
    path = tmp_path / "effect" / "effect.json"
    written = json.loads(path.read_text())
    written["measures"] = [written["measures"][0], {**written["measures"][0], "measure": "finetune"}]
    planted.write_json(path, written)
    (also,) = effects.read(tmp_path)["also"]
    assert (also["measure"], also["arm"], also["against"]) == ("finetune", "round@2", "delivered")
    assert also["value_points"] == pytest.approx(10)


def test_curves_start_with_the_data_as_delivered_and_controls_are_dashed(effect: dict[str, Any]) -> None:
    (drawn,) = effects.all_curves(effect)  # the other measure was skipped
    lines = {line["name"]: line for line in drawn["lines"]}
    assert [(p["x"], p["y"]) for p in lines["cleaned"]["points"]] == [(0, 0.80), (1, 0.86), (2, 0.90)]
    assert [p["y"] for p in lines["as many dropped at random"]["points"]] == [0.80, 0.79, 0.78]
    assert {p["y"] for p in lines["all labels right"]["points"]} == {0.92}
    assert [name for name, line in lines.items() if not line["dashed"]] == ["cleaned"]


def test_what_was_not_measured_is_skipped_with_the_reason_of_each_measure(tmp_path: Path) -> None:
    skipped = [
        {"measure": name, "status": "skipped", "reason": f"no {name}"} for name in ("probe", "finetune")
    ]
    planted.write_json(tmp_path / "effect" / "effect.json", {"measures": skipped})
    found = effects.read(tmp_path)
    assert found["status"] == "skipped" and found["headline"] is None
    assert found["reason"] == "probe: no probe; finetune: no finetune"
    assert effects.all_curves(found) == []


def test_an_absent_file_is_an_error(tmp_path: Path) -> None:
    found = effects.read(tmp_path)
    assert (found["status"], found["reason"]) == (
        "error",
        "effect/effect.json is absent: run the stage effect",
    )


def test_arms_are_named_for_people() -> None:
    assert effects.named("random_drop@2") == "as many dropped at random, round 2"
    assert effects.named("delivered") == "as delivered"
    assert json.dumps(effects.named("some_other@1")) == '"some other, round 1"'
