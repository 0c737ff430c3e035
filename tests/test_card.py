from pathlib import Path
from typing import Any

import pandas as pd
import planted
import pytest
from test_page import require_self_contained

from winnow.compress import card
from winnow.data import store


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return planted.write_all(tmp_path_factory.mktemp("out"))


def run(home: Path, out: Path) -> Path:
    out.mkdir(parents=True)
    card.main("text", home, home / "pretrain", out, rounds=[1, 2])
    return out


@pytest.fixture(scope="module")
def written(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(home, tmp_path_factory.mktemp("card") / "model")


@pytest.fixture(scope="module")
def found(written: Path) -> dict[str, Any]:
    return store.read_json(written / "card.json")


def test_is_one_file_that_needs_nothing_else(written: Path) -> None:
    require_self_contained((written / "card.html").read_text())


def test_is_the_same_bytes_from_run_to_run(home: Path, written: Path, tmp_path: Path) -> None:
    again = run(home, tmp_path / "again")
    for name in ("card.html", "card.json"):
        assert (again / name).read_bytes() == (written / name).read_bytes()


def test_the_page_is_a_function_of_its_json(written: Path, found: dict[str, Any]) -> None:
    assert card.render(found) == (written / "card.html").read_text()


def test_compares_every_model_with_the_teacher(found: dict[str, Any]) -> None:
    models = {model["name"]: model for model in found["models"]}
    assert list(models) == ["teacher", "student", "sparse", "int8"]
    assert models["teacher"]["difference"] is None
    assert models["int8"]["difference"] == {"value": -1.5, "low": -2.5, "high": -0.5}
    assert [model["ratio"] for model in models.values()] == [1, 2, 2, 8]
    assert models["int8"]["latency"]["batch_1"] == {"p10": 0.9, "median": 1.0, "p90": 1.4}


def test_shows_the_int8_model_in_the_engine_beside_onnx_runtime(found: dict[str, Any], written: Path) -> None:
    html = (written / "card.html").read_text()
    assert found["engine"]["latency"]["batch_1"] == {"p10": 0.3, "median": 0.4, "p90": 0.5}
    assert "0.4 ms" in html and "Of 200 test samples it says 1 to be of another class" in html


def test_an_engine_that_could_not_be_built_is_said_to_be_missing(home: Path, tmp_path: Path) -> None:
    planted.write_all(tmp_path)
    latency = store.read_json(home / "evaluate/latency.json")
    latency["int8_engine"] = {"missing": "no C++ compiler (CXX=<none>)"}
    planted.write_json(tmp_path / "text/evaluate/latency.json", latency)
    out = run(tmp_path / "text", tmp_path / "card")
    html = (out / "card.html").read_text()
    assert html.count("not built here") == 2 and "no C++ compiler (CXX=&lt;none&gt;)" in html
    assert store.read_json(out / "card.json")["engine"]["latency"] == {"batch_1": None, "batch_32": None}


def test_shows_ratios_with_what_they_count(found: dict[str, Any], written: Path) -> None:
    html = (written / "card.html").read_text()
    counted = found["ratios"][0]
    assert (counted["student"], counted["teacher"]) == (20, 40)
    assert "as counted in papers" in html and found["bundle"] == {"size_bytes": 250, "ratio": 32}
    for row in found["ratios"]:
        assert row["counts"] in html


def test_what_training_in_int8_bought_stands_beside_what_it_is_without(found: dict[str, Any]) -> None:
    trained, static, dynamic = found["int8_ways"]
    assert trained["accuracy"] == found["models"][-1]["accuracy"]
    assert static["accuracy"]["value"] == 0.75 and static["difference"]["value"] == -20
    assert dynamic["accuracy"] is dynamic["difference"] is None


def test_the_parts_sum_to_each_form_of_the_file(found: dict[str, Any], written: Path) -> None:
    html = (written / "card.html").read_text()
    for form, total in (("onnx", "1,000"), ("packed", "270"), ("bundle", "250")):
        assert f"{sum(row[form] for row in found['parts']):,}" == total
        assert f"<b>{total}</b>" in html


def test_a_latency_that_was_not_measured_is_no_number(home: Path, tmp_path: Path) -> None:
    planted.write_all(tmp_path)
    planted.write_json(tmp_path / "text/evaluate/latency.json", {})
    out = run(tmp_path / "text", tmp_path / "card")
    models = store.read_json(out / "card.json")["models"]
    assert all(model["latency"] == {"batch_1": None, "batch_32": None} for model in models)
    assert " ms" not in (out / "card.html").read_text()


def test_curves_leave_out_what_was_not_logged_at_a_step(found: dict[str, Any]) -> None:
    curves = {one["name"]: one for one in found["curves"]["pretrain"]}
    assert len(curves["loss"]["points"]) == 9
    assert [point["x"] for point in curves["embedding_std"]["points"]] == [0, 2, 4, 6, 8]


def test_a_long_curve_is_thinned_and_keeps_its_ends() -> None:
    history = pd.DataFrame({"step": range(10_007), "loss": [step * 0.5 for step in range(10_007)]})
    (curve,) = card.curves(history, ["loss", "absent"])
    assert len(curve["points"]) <= 241
    assert curve["points"][0] == {"x": 0, "y": 0.0}
    assert curve["points"][-1] == {"x": 10_006, "y": 5003.0}


def test_what_pretraining_bought_is_judged_against_both_baselines(found: dict[str, Any]) -> None:
    verdicts = {gain["baseline"]: gain["verdict"] for gain in found["pretraining_gains"]}
    assert verdicts == {"descriptors": "gain", "an untrained encoder": "gain"}


def test_every_model_that_was_scored_stands_in_the_charts_and_in_their_table(
    found: dict[str, Any], written: Path
) -> None:
    names = ["teacher", "student", "sparse", "int8, ONNX", "bundle", "post-training, static"]
    assert [one["name"] for one in found["variants"]] == names
    best = [one["name"] for one in found["variants"] if one["best"]["bytes"]]
    assert best == ["teacher", "student", "int8, ONNX", "bundle"] or set(best) >= {"teacher", "bundle"}
    html = (written / "card.html").read_text()
    assert html.count('aria-label="Accuracy against bytes"') == html.count(
        'aria-label="Accuracy against time"'
    )
    for name in names:
        assert f"<td><b>{name}</b></td>" in html


def test_sparsity_is_judged_by_the_control_where_there_is_one(written: Path, tmp_path: Path) -> None:
    assert "Nobody knows" in (written / "card.html").read_text()
    planted.write_all(tmp_path)
    path = tmp_path / "text/evaluate/metrics.json"
    metrics = store.read_json(path) | planted.measured("control_accuracy", 180, 200)
    metrics |= {"control_size_bytes": 900, "control_bundle_size_bytes": 245}
    for low, high, verdict in ((0.5, 7.0, "gain"), (-1.0, 7.0, "no measurable gain"), (-9.0, -1.0, "loss")):
        difference = {"points": (low + high) / 2, "points_low": low, "points_high": high}
        store.write_json(path, metrics | {f"int8_minus_control_{key}": v for key, v in difference.items()})
        out = run(tmp_path / "text", tmp_path / "card" / verdict)
        assert store.read_json(out / "card.json")["control"]["verdict"] == verdict
        html = (out / "card.html").read_text()
        assert f'">{verdict}</span>' in html and "Nobody knows" not in html
        assert "<td><b>dense, bundle</b></td>" in html and "takes 245 bytes" in html


def test_what_others_published_stands_there_as_of_other_tasks(found: dict[str, Any], written: Path) -> None:
    html = (written / "card.html").read_text()
    assert "Of other tasks and larger networks" in html
    for point in found["published"]:
        assert point["model"] in html and point["source"] in html


def test_each_step_has_what_it_took_and_what_it_bought(found: dict[str, Any], written: Path) -> None:
    steps = {step["stage"]: step for step in found["steps"]}
    assert list(steps) == ["finetune", "distill", "prune", "quantize"]
    assert found["pretraining"] == {"stage": "pretrain", "steps": 8, "samples": 256}
    assert (steps["prune"]["before"], steps["prune"]["gain"]["value"]) == ("student", -0.5)
    assert steps["finetune"]["gain"] is steps["quantize"]["gain"] is None
    assert steps["quantize"]["counts"]["nonzeros"] == 400
    assert "400 not zero" in (written / "card.html").read_text()


def test_a_scan_is_shown_at_the_sparsity_of_the_model_and_missed_where_there_is_none(
    home: Path, written: Path, tmp_path: Path
) -> None:
    html = (written / "card.html").read_text()
    assert "is pruned to 90\u202f% zeros" in html and "Nothing was scanned" not in html
    planted.write_all(tmp_path)
    layers = tmp_path / "text/evaluate/layers.csv"
    pd.read_csv(layers)[["name", "weights", "sparsity", "int8_sparsity"]].to_csv(layers, index=False)
    html = (run(tmp_path / "text", tmp_path / "card") / "card.html").read_text()
    assert "Nothing was scanned" in html
