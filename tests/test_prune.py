import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import tiny
import tiny_trunk
import torch
from conftest import KINDS
from tiny_trunk import SHAPE

from winnow.compress import bundle, evaluate, prune, quantize, sensitivity
from winnow.compress.patterns import NM, Blocks, Pattern
from winnow.compress.pruning import NONE, Others, locks
from winnow.compress.schedules import Constant, Polynomial, Span
from winnow.compress.sparsity import in_embeddings, in_frontend, lock, measured_sparsity
from winnow.data import store
from winnow.data.modality import Modality
from winnow.data.stage import BadInput
from winnow.data.store import read_classes
from winnow.ssl import model as models
from winnow.ssl.model import Classifier
from winnow.ssl.trunk import Encoder

TEACHING: dict[str, Any] = {
    "distillation": {**asdict(tiny.DISTILLATION), "label_smoothing": 0.1},
    "optimization": tiny_trunk.section(tiny_trunk.OPTIMIZATION, hold=0.5),
}
RUN: dict[str, Any] = {
    "data": {"batch_size": 16, "streaming": None, "variants": {"number": 1, "strength": 1.0}, "seed": 0},
    "trainer": {
        "max_steps": 8,
        "val_check_interval": 8,
        "check_val_every_n_epoch": None,
        "log_every_n_steps": 2,
        "accelerator": "cpu",
    },
    "threads": 1,
}
SCHEDULE = Polynomial(begin=0.1, end=0.6, refresh=0.6, frequency=2, power=3.0, initial=0.0)
FILES = {"model.safetensors", "config.json", "history.csv", "metrics.json"}


def run_prune(modality: Modality, ingested: Path, out: Path, **changed: Any) -> None:
    """Prune the teacher that lies beside `out`, which is made if it is not there."""
    teacher = out.parent / "teacher"
    if not teacher.exists():
        teacher.mkdir()
        torch.manual_seed(0)
        shape = replace(SHAPE, layers=1)
        models.save(Classifier(Encoder(modality, shape), read_classes(ingested)), teacher)
    out.mkdir()
    section: dict[str, Any] = {
        "sparsity": 0.75,
        "pattern": Blocks(block=(1, 4), pooling="average"),
        "scope": "layer",
        "score": "magnitude",
        "others": NONE,
        "schedule": SCHEDULE,
    }
    section |= {"model": TEACHING, **RUN, **changed, "logs": out.parent / "logs"}
    prune.main(modality, ingested, ingested, teacher, teacher, out, **section)


# The chain of every modality is run by the whole pipeline.
@pytest.mark.parametrize("kind", [KINDS[0]], ids=["vision"], indirect=True)
def test_the_chain_from_teacher_to_int8(
    modality: Modality, ingested: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["prune"])
    names = ("teacher", "prune", "prune-again", "quantize", "evaluate")
    teacher, pruned, again, int8, scored = (tmp_path / name for name in names)
    rival, labels = tmp_path / "control", ingested  # as delivered
    for out in (pruned, again):
        run_prune(modality, ingested, out, others=Others(embeddings=0.0, frontend=0.5))
    int8.mkdir()
    scored.mkdir()
    assert {path.name for path in pruned.iterdir()} == FILES | {"layers.csv"}
    assert all((pruned / name).read_bytes() == (again / name).read_bytes() for name in FILES)
    sparse = models.load_classifier(pruned)
    assert measured_sparsity(sparse) == 0.75
    assert store.read_json(pruned / "metrics.json")["sparsity"] == 0.75
    pattern = {"sparsity": 0.75, "block": [1, 4], "pooling": "average"}
    pattern |= {"scope": "layer", "score": "magnitude", "others": {"embeddings": 0.0, "frontend": 0.5}}
    assert models.read_notes(pruned)["pattern"] == pattern
    rising = pd.read_csv(pruned / "history.csv", index_col="step")["sparsity"]
    assert rising.is_monotonic_increasing and rising.iloc[-1] == 0.75
    table = pd.read_csv(pruned / "layers.csv")
    assert list(table["name"]) == [*lock(sparse), "encoder.frontend.project.weight"]
    assert list(table["sparsity"]) == [*[0.75] * len(lock(sparse)), 0.5]
    assert measured_sparsity(sparse, in_frontend) == 0.5

    quantize.main(
        modality,
        ingested,
        labels,
        teacher,
        pruned,
        int8,
        model={**TEACHING, "observe": 0.5, "bits": {"layers": 7, "embeddings": 8}, "attention": "float"},
        **RUN,
        logs=tmp_path / "logs",
    )
    assert {path.name for path in int8.iterdir()} == FILES | {"quantized.safetensors", "model.onnx"}
    assert models.read_notes(int8)["pattern"] == pattern
    master = models.load_classifier(int8)
    for choose in (None, in_frontend):
        left = lock(master, choose)
        for name, keep in lock(sparse, choose).items():
            assert left[name].sum() <= keep.sum()
            # Of the feed-forward part, what is silent is cut out.
            assert left[name].shape != keep.shape or not left[name][~keep].any()
            assert left[name].shape == keep.shape or ".fc" in name
    assert store.read_json(int8 / "metrics.json")["onnx_agreement"] >= 0.99

    shutil.copytree(int8, rival)
    evaluate.main(
        modality,
        ingested,
        teacher,
        teacher,
        pruned,
        int8,
        rival,
        scored,
        batch_size=16,
        calibration=20,
        resamples=100,
        warmup=1,
        rounds=2,
        seed=0,
        threads=1,
    )
    metrics = store.read_json(scored / "metrics.json")
    predictions = store.read_table(scored / "predictions.parquet")
    manifest = store.read_table(ingested / "manifest.parquet")
    assert list(predictions["id"]) == list(manifest["id"][manifest["split"] == "test"])
    for name in ("teacher", "student", "sparse", "int8", "control"):
        right = (predictions[name] == predictions["label"]).mean()
        assert metrics[f"{name}_accuracy"] == pytest.approx(right, abs=1e-6)
        assert metrics[f"{name}_accuracy_low"] <= right <= metrics[f"{name}_accuracy_high"]
    assert metrics["student_minus_teacher_points"] == 0
    assert metrics["int8_minus_control_points"] == 0  # of which it is a copy
    assert metrics["control_size_bytes"] == metrics["int8_size_bytes"]
    assert metrics["control_bundle_size_bytes"] == metrics["bundle_size_bytes"]
    assert {"control", "control_engine"} <= set(store.read_json(scored / "latency.json"))
    assert {f"posttraining_{how}_minus_teacher_points" for how in ("static", "dynamic")} <= set(metrics)
    assert metrics["int8_size_bytes"] == (int8 / "model.onnx").stat().st_size
    zeros = pd.read_csv(scored / "layers.csv")
    assert list(zeros["name"]) == list(lock(sparse)) and set(zeros["sparsity"]) == {0.75}
    trained = pd.read_csv(scored / "training.csv")
    assert list(dict.fromkeys(trained["stage"])) == ["prune", "quantize"]  # nobody trained the teacher
    assert metrics["sparse_nonzeros"] >= metrics["int8_nonzeros"]
    assert {"sparse_minus_student_points", "int8_minus_sparse_points"} <= set(metrics)
    book = store.read_json(scored / "ledger.json")
    for form, name in (("onnx", "int8"), ("bundle", "bundle")):
        assert sum(row[form] for row in book["parts"].values()) == metrics[f"{name}_size_bytes"]
    assert metrics["bundle_size_bytes"] == (scored / "model.winnow").stat().st_size
    assert metrics["counted_ratio"] == book["student_to_int8"]["counted"] == 16
    told = bundle.load(scored / "model.winnow").card
    assert told["accuracy"]["value"] == metrics["int8_accuracy"]


HALF = NM(n=2, m=4)
VARIANTS: dict[str, tuple[float, Pattern, Span, str, str]] = {
    "movement, global": (0.75, Blocks(block=(1, 1), pooling="max"), SCHEDULE, "global", "movement"),
    "fisher, erk": (0.75, Blocks(block=(1, 4), pooling="average"), SCHEDULE, "erk", "fisher"),
    "sensitivity": (0.75, Blocks(block=(4, 4), pooling="max"), SCHEDULE, "sensitivity", "magnitude"),
    "2:4, constant": (0.5, HALF, Constant(begin=0.25, end=0.25, frequency=1), "layer", "magnitude"),
}


@pytest.mark.parametrize("kind", [KINDS[0]], ids=["vision"], indirect=True)
@pytest.mark.parametrize("variant", VARIANTS)
def test_prunes_by_every_scope_and_score(
    modality: Modality, ingested: Path, tmp_path: Path, variant: str
) -> None:
    sparsity, pattern, schedule, scope, score = VARIANTS[variant]
    out, others = tmp_path / "prune", {"scope": scope, "score": score, "schedule": schedule}
    run_prune(modality, ingested, out, sparsity=sparsity, pattern=pattern, **others)
    sparse, table = models.load_classifier(out), pd.read_csv(out / "layers.csv")
    assert measured_sparsity(sparse) == pytest.approx(sparsity, abs=0.02)
    assert store.read_json(out / "metrics.json")["sparsity"] == pytest.approx(
        measured_sparsity(sparse), abs=1e-6
    )
    assert len(set(table["sparsity"])) == 1 if scope == "layer" else len(set(table["sparsity"])) > 1
    scanned = [name for name in table if name.startswith("loss_at_")]
    assert (len(scanned) == 1 + len(sensitivity.LEVELS)) if scope == "sensitivity" else not scanned
    assert not table.isna().any().any()


@pytest.mark.parametrize("kind", [KINDS[2]], ids=["text"], indirect=True)
def test_prunes_embeddings_beside_the_trunk_and_locks_them(
    modality: Modality, ingested: Path, tmp_path: Path
) -> None:
    out = tmp_path / "prune"
    run_prune(modality, ingested, out, sparsity=0.5, others=Others(embeddings=0.9, frontend=0.0))
    sparse = models.load_classifier(out)
    assert measured_sparsity(sparse) == 0.5
    assert measured_sparsity(sparse, in_embeddings) == pytest.approx(0.9, abs=1e-3)
    trunk, embeddings = locks(models.read_notes(out))
    assert trunk.name == "sparsity" and embeddings.name == "sparsity_of_embeddings"
    assert embeddings.pruner.choose is in_embeddings


@pytest.mark.parametrize("kind", [KINDS[0]], ids=["vision"], indirect=True)
def test_what_the_network_does_not_have_cannot_be_pruned(
    modality: Modality, ingested: Path, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=r"others.embeddings is 0.9, and .* no matrix there: set it to 0.0"):
        run_prune(modality, ingested, tmp_path / "out", others=Others(embeddings=0.9, frontend=0.0))
