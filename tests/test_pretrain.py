import inspect
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pandas as pd
import pytest
import runs
import torch
import yaml
from recipes import RECIPES, read
from runs import assert_same_files, run_pretrain

from winnow.data import store
from winnow.data.modality import Modality
from winnow.data.text import Text
from winnow.ssl import model as models
from winnow.ssl.monitor import Collapsed, CollapseMonitor, Diverged
from winnow.ssl.trunk import Encoder

FILES = {"model.safetensors", "config.json", "history.csv", "metrics.json"}


@pytest.fixture(autouse=True)
def no_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["pretrain"])


@pytest.fixture(scope="module")
def pretrained(modality: Modality, ingested: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["pretrain"])
        return run_pretrain(modality, ingested, tmp_path_factory.mktemp("once"))


def same_encoder(one: Path, other: Path) -> bool:
    a, b = (models.load(folder).state_dict() for folder in (one, other))
    return all(torch.equal(a[name], b[name]) for name in a)


def test_gives_an_encoder_with_its_history_and_finite_metrics(modality: Modality, pretrained: Path) -> None:
    assert {path.name for path in pretrained.iterdir()} == FILES
    encoder = models.load(pretrained)
    assert isinstance(encoder, Encoder)
    assert models.section(encoder.modality) == models.section(modality)
    metrics = store.read_json(pretrained / "metrics.json")
    diagnosis = {"target_std", "sample_share", "embedding_std", "effective_rank"}
    assert set(metrics) == {"samples", "loss", "val/loss", *diagnosis}
    assert np.isfinite(list(metrics.values())).all()
    history = pd.read_csv(pretrained / "history.csv", index_col="step")
    assert list(history.index) == [1, 2, 3, 4, 5, 6]
    assert history["loss"].notna().all()


def test_training_changes_every_weight_of_the_encoder(modality: Modality, pretrained: Path) -> None:
    torch.manual_seed(0)
    start = dict(Encoder(modality, runs.SHAPE).named_parameters())
    for name, weight in models.load(pretrained).named_parameters():
        assert not torch.equal(weight, start[name]), name


def test_two_runs_leave_the_same_bytes(
    modality: Modality, ingested: Path, pretrained: Path, tmp_path: Path
) -> None:
    torch.manual_seed(12345)  # whatever happened before
    assert_same_files(pretrained, run_pretrain(modality, ingested, tmp_path))


def test_the_seed_matters(modality: Modality, ingested: Path, pretrained: Path, tmp_path: Path) -> None:
    other = run_pretrain(modality, ingested, tmp_path, data__seed=1)
    assert not same_encoder(pretrained, other)


def test_mixed_precision_learns_nearly_the_same_and_keeps_weights_in_32_bits(
    modality: Modality, ingested: Path, pretrained: Path, tmp_path: Path
) -> None:
    other = run_pretrain(modality, ingested, tmp_path, trainer__precision="bf16-mixed")
    assert {weight.dtype for weight in models.load(other).state_dict().values()} == {torch.float}
    losses = (pd.read_csv(out / "history.csv")["val/loss"].dropna() for out in (pretrained, other))
    np.testing.assert_allclose(*losses, rtol=0.02)
    assert not same_encoder(pretrained, other)


def test_never_reads_a_label(modality: Modality, ingested: Path, pretrained: Path, tmp_path: Path) -> None:
    """Without any label, and with all of them changed, the same encoder comes out."""
    manifest = store.read_table(ingested / "manifest.parquet")
    none = runs.decide(ingested, tmp_path / "none", **dict.fromkeys(manifest["id"]))
    assert_same_files(pretrained, run_pretrain(modality, ingested, tmp_path / "a", none))


def test_learns_from_unlabelled_samples_and_not_from_dropped_ones(
    modality: Modality, ingested: Path, pretrained: Path, tmp_path: Path
) -> None:
    manifest = store.read_table(ingested / "manifest.parquet")
    some = manifest[manifest["split"] == "train"]["id"][::2]
    dropped = runs.decide(ingested, tmp_path / "dropped", *some)
    assert not same_encoder(pretrained, run_pretrain(modality, ingested, tmp_path / "a", dropped))


def test_never_sees_the_test_split(
    modality: Modality, ingested: Path, pretrained: Path, tmp_path: Path
) -> None:
    manifest = store.read_table(ingested / "manifest.parquet")
    test = manifest[manifest["split"] == "test"]["id"]
    assert len(test)
    labels = runs.decide(ingested, tmp_path / "labels", *test)
    assert_same_files(pretrained, run_pretrain(modality, ingested, tmp_path / "a", labels))


def test_the_loss_falls_and_nothing_collapses(modality: Modality, ingested: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "trainer__max_steps": 80,
        "trainer__val_check_interval": 40,
        "trainer__log_every_n_steps": 5,
        "monitor__every_steps": 20,
        "monitor__patience": 2,
        "monitor__grace": 0.2,
        # Words start near 0, in the shadow of positions that do not.
        "model__shape__positions": "learned" if isinstance(modality, Text) else "sincos",
    }
    out = run_pretrain(modality, ingested, tmp_path, **settings)
    history = pd.read_csv(out / "history.csv", index_col="step")
    assert history["loss"].iloc[-3:].mean() < 0.9 * history["loss"].iloc[:3].mean()
    assert history["sample_share"].iloc[-1] > 0.05


def test_a_collapse_stops_the_run(modality: Modality, ingested: Path, tmp_path: Path) -> None:
    """The teacher is the student of the step before, and the steps are far too long."""
    settings: dict[str, Any] = {
        "model__ema": {"start": 0.0, "end": 0.0, "ramp": 1.0, "steps": None, "shared": []},
        "model__optimization": {**runs.OPTIMIZATION, "lr": 0.3, "warmup": 0.0},
        "model__target__final_norm": "none",
        "trainer__max_steps": 60,
        "monitor__patience": 2,
        "monitor__min_embedding_std": 0.9,
        "monitor__min_sample_share": 0.3,
    }
    with pytest.raises(Collapsed, match=r"Raise ema\.start"):
        run_pretrain(modality, ingested, tmp_path, **settings)


def test_a_run_that_diverges_ends_with_a_remedy(modality: Modality, ingested: Path, tmp_path: Path) -> None:
    too_much = {**runs.OPTIMIZATION, "lr": 1e30, "warmup": 0.0}
    with pytest.raises(Diverged, match=r"lower optimization\.lr"):
        run_pretrain(modality, ingested, tmp_path, model__optimization=too_much, monitor__every_steps=100)


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_recipe_has_every_key_of_the_stage_and_no_other(path: Path) -> None:
    recipe = read(path)
    assert recipe.keys() == {"modality", "pretrain"}
    section = recipe["pretrain"]
    starter = yaml.safe_load((RECIPES.parent.parent / "params.yaml").read_text())["vision"]["pretrain"]
    assert section.keys() == starter.keys()
    assert section["data"].keys() == starter["data"].keys()
    assert section["monitor"].keys() == inspect.signature(CollapseMonitor).parameters.keys()
    assert section["trainer"].keys() <= inspect.signature(lightning.Trainer).parameters.keys()
    # A layer that is left out has no gradient, at which plain data parallelism stops.
    drops = section["model"]["shape"]["drop_layer"] > 0
    assert (section["trainer"]["strategy"] == "ddp_find_unused_parameters_true") is drops
