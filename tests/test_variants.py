import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.repo import Repo
from test_page import require_self_contained

from winnow.compress import variants
from winnow.data.stage import BadInput

RECORD: dict[str, Any] = {"name": "80 %", "group": "int8", "accuracy": 0.9, "bytes": 1000}


def test_is_one_file_that_needs_nothing_else() -> None:
    html = variants.render(
        "<b>digits", "What was tried.", [RECORD, {**RECORD, "name": "<script>", "ms": 0.5}]
    )
    require_self_contained(html)
    assert "<b>digits" not in html and "&lt;b&gt;digits" in html


def test_each_set_has_charts_of_its_own() -> None:
    html = variants.render("bench", "", [{**RECORD, "set": name} for name in ("digits", "news", "digits")])
    assert html.count("<section>") == 2
    assert html.count('aria-label="Accuracy against bytes"') == 2
    assert html.count("Nothing was measured.") == 2  # of time


def test_a_record_that_lacks_something_is_named() -> None:
    with pytest.raises(ValueError, match="record 1, 90 %, has no accuracy, bytes"):
        variants.render("bench", "", [RECORD, {"name": "90 %", "group": "int8"}])


def test_the_table_says_who_is_on_which_front() -> None:
    dearer = {**RECORD, "name": "dearer", "bytes": 2000, "ms": 0.5}
    slower = {**RECORD, "name": "slower", "ms": 1.0}
    best = {row["name"]: row["best"] for row in variants._chapter("", [dearer, slower])["rows"]}
    assert best == {"dearer": {"bytes": False, "ms": True}, "slower": {"bytes": True, "ms": False}}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of one stage; its evaluation is committed, another one is the workspace and an experiment."""
    root = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        write_project(root)
    return root


def write_project(root: Path) -> None:
    for words in (
        ["init", "-q", "-b", "main"],
        ["config", "user.email", "a@b.c"],
        ["config", "user.name", "a"],
    ):
        subprocess.run(["git", *words], check=True)
    repo = Repo.init(str(root))
    files = ["out/vision/evaluate/metrics.json", "out/vision/evaluate/latency.json"]
    stage = {"cmd": "true", "params": ["vision.prune"], "metrics": files}
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"evaluate": stage}}))
    for sparsity, accuracy, size in ((0.8, 0.9, 1000), (0.95, 0.875, 400)):
        (root / "params.yaml").write_text(yaml.safe_dump({"vision": {"prune": {"sparsity": sparsity}}}))
        metrics = {"teacher_accuracy": 0.92, "teacher_size_bytes": 9000}
        metrics |= {"int8_accuracy": accuracy, "bundle_size_bytes": size}
        latency = {"teacher": {"batch_1_median_ms": 2.0}, "int8": {"batch_1_median_ms": 0.5}}
        for path, content in zip(files, (metrics, latency), strict=True):
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(json.dumps(content))
        repo.commit(force=True)
        if sparsity == 0.8:
            subprocess.run(["git", "add", "-A"], check=True)
            subprocess.run(["git", "commit", "-qm", "first"], check=True)
    repo.experiments.save(name="sparser")
    repo.close()


def test_reads_the_workspace_and_every_experiment_once(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(project)
    found = variants.tried("vision", variants.ask_dvc(all_commits=False))
    assert [(one["name"], one["accuracy"], one["bytes"], one["ms"]) for one in found] == [
        ("teacher", 0.92, 9000, 2.0),
        ("sparser", 0.875, 400, 0.5),
        ("main", 0.9, 1000, 0.5),
    ]
    assert [one.get("note") for one in found] == [None, "prune.sparsity=0.95", "prune.sparsity=0.8"]
    monkeypatch.setattr(sys, "argv", ["variants", "vision", "build/variants.html"])
    variants.main()
    assert "2 variants of the compressed model" in Path("build/variants.html").read_text()
    assert capsys.readouterr().out == "build/variants.html\n"


def test_says_what_to_do_where_nothing_was_evaluated(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    monkeypatch.setattr(sys, "argv", ["variants", "speech", "variants.html"])
    with pytest.raises(SystemExit, match="dvc repro evaluate@speech makes it"):
        variants.main()
    assert not Path("variants.html").exists()


def test_passes_on_what_dvc_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match="not inside of a DVC repository"):
        variants.ask_dvc(all_commits=False)
