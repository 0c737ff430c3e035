"""What the benches say of what they measured."""

from typing import Any

import numpy as np
import pytest

from bench.compress import arms, sets, tables
from bench.compress.arms import Found
from examples.real import laid_over
from winnow.compress import variants

RATIOS = {"counted": 80.0, "packed": 28.0, "compressed": 50.0, "whole_file": 12.5, "zipped": 20.0}
TEACHER = np.arange(1000) < 900


def found(right: int, size_bytes: int = 4000) -> Found:
    return Found(np.arange(1000) < right, RATIOS, size_bytes)


def test_a_row_has_the_mean_and_the_spread_of_its_seeds_and_what_was_lost() -> None:
    row = tables.row("90 %", TEACHER, [[found(890)], [found(900)], [found(895, 7000)]])
    cells = [cell.strip() for cell in str(row).strip("|").split("|")]
    assert cells[:2] == ["90 %", "89.50 ± 0.50"] and cells[2].startswith("+0.50 (+0.")
    assert cells[3:] == ["yes", "80.0×", "28.0×", "50.0×", "12.5×", "5.0"]
    assert len(cells) == tables.head().splitlines()[0].count("|") - 1


def test_samples_of_several_splits_count_alike() -> None:
    whole = np.concatenate([TEACHER, TEACHER])
    row = tables.row("", whole, [[found(880), found(900)]])
    assert row.scores == [89.0] and row.lost[0] == pytest.approx(1.0)


@pytest.mark.parametrize(("right", "under"), [(900, True), (893, True), (885, False), (700, False)])
def test_under_one_point_is_of_the_mean_and_of_the_intervals_end(right: int, under: bool) -> None:
    row = tables.row("", TEACHER, [[found(right)]])
    assert row.under_one is under
    assert under is (row.lost[0] < 1 and row.lost[2] < 2)


@pytest.mark.parametrize(
    ("sparse", "verdict"), [(890, "gain"), (861, "no measurable gain"), (800, "loss")], ids=str
)
def test_an_arm_is_better_worse_or_neither_than_another(sparse: int, verdict: str) -> None:
    one, other = (tables.row(name, TEACHER, [[found(n)]]) for name, n in (("95 %", sparse), ("dense", 860)))
    said = tables.against(one, other)
    assert said.startswith(f"95 % against dense: {(sparse - 860) / 10:+.2f} points")
    assert said.endswith(f", {verdict}")


def test_times_are_shares_of_the_first() -> None:
    lines = tables.times({"teacher | PyTorch": {1: 2.0, 32: 1.0}, "95 % | engine": {1: 0.5, 32: 0.1}})
    assert lines.splitlines()[-1] == "| 95 % | engine | 0.500 | 0.25 | 0.100 | 0.10 |"
    widths = {line.count("|") for line in lines.splitlines()}
    assert len(widths) == 1


def test_rows_can_be_drawn() -> None:
    rows = [tables.row(name, TEACHER, [[found(n)]]) for name, n in (("95 %", 895), ("dense", 880))]
    taken = {f"{name} | ONNX Runtime": {1: 0.5, 32: 0.2} for name in ("teacher", "95 %", "dense")}
    taken["95 % | engine"] = {1: 0.2, 32: 0.1}
    records = tables.records("News", TEACHER, 99_000, rows, {"dense"}, taken)
    assert [one["group"] for one in records] == ["teacher", "int8", "control"]
    assert [one["ms"] for one in records] == [0.5, 0.2, 0.5]
    assert records[1]["low"] <= records[1]["accuracy"] == 0.895 <= records[1]["high"]
    assert "95 %" in variants.render("small", "", records)


def test_a_recording_is_tested_if_nobody_heard_its_speaker() -> None:
    assert sets.part("wavs/3_theo_12.wav", unheard=True) == "test"
    assert sets.part("wavs/3_theo_2.wav", unheard=False) == "validation"
    assert sets.part("wavs/3_theo_12.wav", unheard=False) == "train"


@pytest.mark.parametrize("name", list(sets.TITLES))
def test_every_arm_names_stages_by_keys_that_these_have(name: str) -> None:
    def require(own: dict[str, Any], whole: dict[str, Any], where: str) -> None:
        for key, value in own.items():
            assert key in whole, f"{where}.{key}"
            if isinstance(value, dict):
                require(value, whole[key], f"{where}.{key}")

    own = sets.changes()[name]
    numbers, every = sets.numbers(own["modality"]), laid_over(sets.changes()["arms"], own.get("arms", {}))
    assert own.get("arms", {}).keys() <= sets.changes()["arms"].keys()
    for arm, stages in every.items():
        for stage, changed in stages.items():
            if stage in ("of", "beside"):
                assert changed in every
            else:
                require(changed, numbers[stage], f"{arm}: {stage}")


@pytest.mark.parametrize("name", list(sets.TITLES))
def test_a_control_trains_as_long_as_what_it_stands_against(name: str) -> None:
    own = sets.changes()[name]
    every = laid_over(sets.changes()["arms"], own.get("arms", {}))
    controls = {arm: stages["of"] for arm, stages in every.items() if "of" in stages}
    assert controls
    for control, sparse in controls.items():
        stages = {arm: arms.stages_of(every, arm, own["modality"], seed=3) for arm in (control, sparse)}
        total = sum(stage["trainer"]["max_steps"] for stage in stages[sparse].values())
        assert stages[control]["control"]["trainer"]["max_steps"] == total
        bits = stages[sparse]["quantize"]["model"]["bits"]
        assert stages[control]["control"]["model"]["bits"] == bits
        assert stages[control]["control"]["data"]["seed"] == 3
