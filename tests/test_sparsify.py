from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import runs
import tiny_trunk
import torch
from conftest import KINDS
from test_data2vec import DECODER, LOSS, TARGET, blocks, images
from test_prune import RUN, SCHEDULE, TEACHING
from tiny_trunk import OPTIMIZATION, SHAPE

from winnow.compress import sparsify, transfer
from winnow.compress.patterns import Blocks
from winnow.compress.sparsify import Sparsified
from winnow.compress.sparsity import lock, measured_sparsity
from winnow.data import store
from winnow.data.modality import Modality
from winnow.data.store import read_classes
from winnow.ssl import model as models
from winnow.ssl.model import Classifier
from winnow.ssl.trunk import Encoder

# Of every modality the method is the same; all are run by the whole pipeline when they are switched on.
pytestmark = pytest.mark.parametrize("kind", [KINDS[0]], ids=["vision"], indirect=True)
MODEL: dict[str, Any] = {
    "layers": [1],
    "loss": {"beta": 0.0, "scale": "root", "visible": 1.0, "extra": 0.0},
    "optimization": tiny_trunk.section(tiny_trunk.OPTIMIZATION, lr=0.003, hold=0.5),
}


@pytest.fixture
def dense(modality: Modality, tmp_path: Path) -> Path:
    folder = tmp_path / "dense"
    folder.mkdir()
    torch.manual_seed(0)
    models.save(Encoder(modality, SHAPE), folder)
    return folder


def run_sparsify(modality: Modality, ingest: Path, dense: Path, out: Path, **changes: Any) -> Path:
    out.mkdir()
    settings = {
        "sparsity": 0.75,
        "pattern": Blocks(block=(1, 4), pooling="average"),
        "scope": "global",
        "score": "movement",
        "schedule": SCHEDULE,
        "model": MODEL,
        **RUN,
        "sections": {
            "pictures": {
                "modality": models.section(modality),
                "pretrain": runs.changed(runs.PRETRAIN, model__masking__block=[3, 3]),
            }
        },
        **changes,
    }
    sparsify.main("pictures", ingest, ingest, dense, out, **settings, logs=out.parent / "logs")
    return out


@pytest.fixture(autouse=True)
def no_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["sparsify"])


def test_an_encoder_is_pruned_once_and_taught_a_task_without_losing_a_zero(
    modality: Modality, ingested: Path, dense: Path, tmp_path: Path
) -> None:
    sparse = run_sparsify(modality, ingested, dense, tmp_path / "sparsify")
    assert {path.name for path in sparse.iterdir()} == {
        "model.safetensors", "config.json", "history.csv", "layers.csv", "metrics.json",
    }  # fmt: skip
    encoder = models.load_encoder(sparse)
    assert encoder.shape.layers == 1
    assert measured_sparsity(encoder) == pytest.approx(0.75, abs=0.01)
    rising = pd.read_csv(sparse / "history.csv", index_col="step")["sparsity"]
    assert rising.is_monotonic_increasing and rising.iloc[-1] == pytest.approx(0.75, abs=0.01)

    teacher, out = tmp_path / "teacher", tmp_path / "transfer"
    for folder in (teacher, out):
        folder.mkdir()
    models.save(Classifier(models.load_encoder(dense), read_classes(ingested)), teacher)
    transfer.main(
        modality,
        ingested,
        ingested,
        teacher,
        sparse,
        out,
        model={**TEACHING, "dropout": 0.1},
        **RUN,
        logs=tmp_path / "logs",
    )
    assert (out / "sparsify.csv").read_bytes() == (sparse / "history.csv").read_bytes()
    classifier = models.load_classifier(out)
    before, after = lock(encoder), lock(classifier)
    assert all(torch.equal(keep, after[f"encoder.{name}"]) for name, keep in before.items())
    moved = dict(classifier.encoder.named_parameters())
    assert all(
        not torch.equal(weight, moved[name]) for name, weight in encoder.layers.named_parameters("layers")
    )
    assert models.read_notes(out) == models.read_notes(sparse)
    assert models.read_notes(out)["pattern"]["sparsity"] == 0.75
    metrics = store.read_json(out / "metrics.json")
    assert metrics["sparsity"] == pytest.approx(measured_sparsity(classifier), abs=1e-6)


def test_two_runs_leave_the_same_bytes(
    modality: Modality, ingested: Path, dense: Path, tmp_path: Path
) -> None:
    one = run_sparsify(modality, ingested, dense, tmp_path / "one")
    torch.manual_seed(12345)
    runs.assert_same_files(one, run_sparsify(modality, ingested, dense, tmp_path / "other"))


def test_the_target_is_what_the_dense_encoder_makes_of_the_whole_sample_however_long_it_trains(
    modality: Modality, dense: Path
) -> None:
    method = Sparsified(
        modality,
        dense,
        layers=[1],
        masking=blocks(modality),
        masks=2,
        complementary=False,
        target=TARGET,
        predictor=DECODER,
        loss=LOSS,
        instances=None,
        optimization=OPTIMIZATION,
        frontend_lr=1.0,
        seed=0,
    )
    whole, x = models.load_encoder(dense), images(4)
    assert torch.equal(method.student.layers[0].fc1.weight, whole.layers[1].fc1.weight)
    wanted = TARGET(whole(x))
    torch.testing.assert_close(method.target(x)[0], wanted)
    with torch.no_grad():
        for weight in method.student.parameters():
            weight.add_(1.0)
    method.update_teacher(0.5)
    torch.testing.assert_close(method.target(x)[0], wanted)


def test_refuses_layers_that_the_encoder_has_not(
    modality: Modality, ingested: Path, dense: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="layers must ascend within 0 to 1"):
        run_sparsify(modality, ingested, dense, tmp_path / "out", model={**MODEL, "layers": [2]})
