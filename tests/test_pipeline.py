"""The whole pipeline on small data, as dvc.yaml tells it: its commands, its order, its files."""

import copy
import importlib
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import networkx
import onnx
import pandas as pd
import pytest
import tiny_trunk
import torch
import yaml
from conftest import KINDS, Kind
from test_architecture import PARAMS, PIPELINE, STEPS, Step, within
from test_page import require_self_contained

from winnow.data import alert, stage, store

# What measures time, or tells of it, differs from run to run.
TIMED = ("latency.json", "card.html", "card.json", "index.html")
SOURCES = {
    "vision": {
        "class_path": "winnow.data.sources.files.Folder",
        "init_args": {"labels": "folders"},
    },
    "speech": {
        "class_path": "winnow.data.sources.tables.Table",
        "init_args": {
            "table": "labels.csv",
            "path": "file",
            "label": "label",
            "group": "speaker",
        },
    },
    "text": {
        "class_path": "winnow.data.sources.tables.Table",
        "init_args": {"text": "text", "label": "label"},
    },
}


def shrink(kind: Kind) -> dict[str, Any]:
    """Take the project's own parameters, smaller: every key that a stage needs is there."""
    section = copy.deepcopy(PARAMS[kind.name])
    section["modality"] = kind.section
    section["ingest"]["source"] = SOURCES[kind.name]
    section["ingest"] |= {"splits": {"validation": 0.2, "test": 0.2}, "max_rejects": 0.0}
    section["audit"]["judge"] |= {"folds": 3, "neighbours": 5}
    section["probe"]["neighbours"] = 5
    section["pretrain"]["model"] |= {
        "shape": tiny_trunk.section(
            tiny_trunk.SHAPE, dim=32, positions=section["pretrain"]["model"]["shape"]["positions"]
        ),
        "predictor": section["pretrain"]["model"]["predictor"] | {"layers": 1, "dim": 16},
        "masks": 2,
        "target": section["pretrain"]["model"]["target"] | {"layers": 2},
    }
    section["pretrain"]["monitor"] |= {"every_steps": 2, "samples": 16, "grace": 1.0}
    section["distill"]["model"]["layers"] = [0, 1]
    section["effect"]["probe"]["seeds"] = 2
    section["effect"]["finetune"] |= {"seeds": 2, "steps": 2, "batch_size": 4}
    # So few deals can show nothing at the project's own rate of false discoveries.
    section["drift"] |= {"permutations": 99, "alpha": 0.5, "projections": 4}
    section["prune"]["schedule"]["frequency"] = 1
    section["evaluate"] |= {"resamples": 200, "warmup": 1, "rounds": 3}
    section["report"]["examples"] = 4
    for name in ("pretrain", "finetune", "distill", "prune", "quantize"):
        steps = {"max_steps": 6, "val_check_interval": 3, "log_every_n_steps": 2}
        section[name]["trainer"] |= steps
        section[name]["data"]["batch_size"] = 8
        section[name]["threads"] = 1
    return section


def steps(modality: str) -> list[Step]:
    """The stages of one modality and the index, each after those whose outputs it reads."""
    waiting = [s for s in STEPS if s.modality in (modality, None)]
    ordered = []
    while waiting:
        needed = {step.address: [dep for dep in step.deps if dep.startswith("out/")] for step in waiting}
        ahead = {out for step in waiting for out in step.outs}
        ready = [
            step
            for step in waiting
            if not any(within(o, d) or within(d, o) for d in needed[step.address] for o in ahead)
        ]
        assert ready, f"{[step.address for step in waiting]} wait for each other"
        ordered += ready
        waiting = [step for step in waiting if step not in ready]
    return ordered


def run_all(kind: Kind, raw: Path, root: Path) -> Path:
    """Run every stage in its order, in this process: starting Python each time takes longer."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "params.yaml").write_text(yaml.safe_dump({kind.name: shrink(kind)}))
    (root / "reviews").mkdir()
    (root / "reviews" / f"{kind.name}.csv").write_text("id,action,label,reviewer,note,stratum\n")
    (root / "accepted").mkdir()
    (root / "accepted" / f"{kind.name}.json").write_text("{}\n")
    before, threads = signal.getsignal(signal.SIGTERM), torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.delenv(alert.VARIABLE, raising=False)
        for step in steps(kind.name):
            words = [str(raw) if word == "data/sources/starter.py" else word for word in step.words]
            patch.setattr(sys, "argv", [step.module.name, *words])
            name = f"winnow.{step.module.folder}.{step.module.name}"
            stage.run(importlib.import_module(name).main)
    signal.signal(signal.SIGTERM, before)
    torch.set_num_threads(threads)
    return root


@pytest.fixture(scope="module")
def root(kind: Kind, raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield run_all(kind, raw, tmp_path_factory.mktemp("pipeline") / kind.name)


def test_every_file_of_the_contract_is_there_and_nothing_half_made(kind: Kind, root: Path) -> None:
    for step in steps(kind.name):
        for out in step.outs:
            assert (root / out).exists(), f"{step.address} did not write {out}"
    assert list(root.rglob("*.partial")) == []
    home = root / "out" / kind.name
    assert {path.name for path in home.iterdir()} == {
        step.output.split("/")[-1] for step in steps(kind.name) if step.output.startswith(f"out/{kind.name}/")
    }


def test_pages_need_nothing_else(kind: Kind, root: Path) -> None:
    pages = sorted((root / "out").rglob("*.html"))
    assert [page.name for page in pages] == ["index.html", "report.html", "card.html"]
    for page in pages:
        require_self_contained(page.read_text(encoding="utf-8"))


def test_metrics_are_flat_numbers(kind: Kind, root: Path) -> None:
    files = [out for s in steps(kind.name) for out in s.outs if out.endswith("/metrics.json")]
    assert len(files) > 10
    for path in files:
        for name, value in store.read_json(root / path).items():
            assert isinstance(value, int | float), f"{path}: {name}"


def test_every_round_decides_about_every_sample_and_leaves_the_test_split(kind: Kind, root: Path) -> None:
    home = root / "out" / kind.name
    manifest = store.read_table(home / "ingest" / "manifest.parquet")
    test = manifest["split"] == "test"
    for number in (1, 2):
        issues = store.read_table(home / f"audit@{number}" / "issues.parquet")
        decisions = store.read_table(home / f"curate@{number}" / "decisions.parquet")
        assert list(issues["id"]) == list(decisions["id"]) == list(manifest["id"])
        pd.testing.assert_series_equal(decisions["label"][test], manifest["label"][test])
        assert (decisions["action"][test] == "keep").all()


def test_zeros_of_pruning_are_zeros_of_the_shipped_model(kind: Kind, root: Path) -> None:
    home = root / "out" / kind.name
    wanted = PARAMS[kind.name]["prune"]["sparsity"]
    assert store.read_json(home / "prune" / "metrics.json")["sparsity"] == pytest.approx(wanted, abs=0.02)
    assert store.read_json(home / "quantize" / "metrics.json")["sparsity"] >= wanted - 0.02
    onnx.checker.check_model(onnx.load(home / "quantize" / "model.onnx"), full_check=True)


@pytest.mark.parametrize("kind", [KINDS[0]], ids=["vision"], indirect=True)
def test_everything_that_measures_no_time_is_bit_identical_from_run_to_run(
    kind: Kind, raw: Path, root: Path, tmp_path: Path
) -> None:
    again = run_all(kind, raw, tmp_path / "again" / kind.name)
    files = sorted(path for path in (root / "out").rglob("*") if path.is_file())
    assert [p.relative_to(root) for p in files] == sorted(
        p.relative_to(again) for p in (again / "out").rglob("*") if p.is_file()
    )
    differ = [
        str(path.relative_to(root))
        for path in files
        if path.name not in TIMED and path.read_bytes() != (again / path.relative_to(root)).read_bytes()
    ]
    assert differ == []


def test_dvc_sees_one_pipeline_without_circles() -> None:
    graph = PIPELINE.graph
    assert networkx.is_directed_acyclic_graph(graph)
    assert networkx.is_weakly_connected(graph)
    assert len(graph) == len(STEPS)
