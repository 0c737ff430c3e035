from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny
import tiny_trunk
import torch
from runs import command_line
from tiny_trunk import SHAPE

from winnow.compress import distill
from winnow.compress.distill import Distilled
from winnow.data import store
from winnow.data.modality import Modality
from winnow.data.store import read_classes
from winnow.ssl import model as models
from winnow.ssl.model import Classifier
from winnow.ssl.trunk import Encoder

SLICING = {"score": "taylor", "samples": 20, "scope": "layer", "multiple": 8}
MODEL: dict[str, Any] = {
    "layers": [1],
    "heads": 1.0,
    "channels": 1.0,
    "slicing": SLICING,
    "distillation": {**asdict(tiny.DISTILLATION), "label_smoothing": 0.1},
    "optimization": tiny_trunk.section(tiny_trunk.OPTIMIZATION),
}


def run(modality: Modality, ingest: Path, root: Path, **changed: Any) -> Path:
    classes = read_classes(ingest)
    teacher, out = root / "teacher", root / "distill"
    teacher.mkdir(parents=True)
    out.mkdir()
    torch.manual_seed(0)
    models.save(Classifier(Encoder(modality, SHAPE), classes), teacher)
    settings: dict[str, Any] = {
        "model": MODEL,
        "data": {"batch_size": 16, "streaming": None, "variants": {"number": 1, "strength": 1.0}, "seed": 0},
        "trainer": {
            "max_steps": 4,
            "val_check_interval": 2,
            "check_val_every_n_epoch": None,
            "log_every_n_steps": 2,
            "accelerator": "cpu",
        },
    }
    distill.main(
        modality,
        ingest,
        ingest,
        teacher,
        out,
        **{**settings, **changed},
        threads=1,
        logs=root / "logs",
    )
    return out


def test_gives_a_smaller_model_of_the_same_form(
    modality: Modality, ingested: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["distill"])
    out = run(modality, ingested, tmp_path / "once")
    again = run(modality, ingested, tmp_path / "again")
    for name in ("model.safetensors", "config.json", "history.csv", "metrics.json"):
        assert (out / name).read_bytes() == (again / name).read_bytes(), name

    student = models.load_classifier(out)
    assert student.encoder.shape.layers == 1
    assert student.classes == read_classes(ingested)
    metrics = store.read_json(out / "metrics.json")
    assert metrics["parameters"] < metrics["teacher_parameters"]
    assert 0 <= metrics["val_accuracy"] <= 1
    history = pd.read_csv(out / "history.csv", index_col="step")
    assert list(history.index) == [2, 4]
    assert np.isfinite(history[["loss", "val/loss", "val/accuracy"]].to_numpy()).all()


@pytest.mark.parametrize("score", ["taylor", "magnitude"])
def test_half_of_the_heads_and_channels_are_cut_away_before_the_lesson(
    modality: Modality, ingested: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, score: str
) -> None:
    monkeypatch.setattr("sys.argv", ["distill"])
    shares = {"heads": 0.5, "channels": 0.5, "slicing": {**SLICING, "score": score}}
    out = run(modality, ingested, tmp_path, model={**MODEL, **shares})
    student = models.load_classifier(out)
    (size,) = student.encoder.shape.sizes
    assert (len(size.heads), size.channels) == (1, 16)
    assert student.encoder.layers[0].fc1.weight.shape == (16, 16)
    # What a run of Lightning's own makes of the config is that network, too.
    logs = tmp_path / "logs"
    given = ["--config", logs / "config.yaml", "--ckpt_path", logs / "checkpoints/last.ckpt"]
    command_line(monkeypatch, distill, Distilled, "validate", *given)
    wanted = pd.read_csv(out / "history.csv")["val/accuracy"].iloc[-1]
    scored = pd.read_csv(logs / "validate" / "metrics.csv")["val/accuracy"].iloc[-1]
    assert scored == pytest.approx(wanted, abs=1e-5)
