import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from conftest import KINDS, Kind
from runs import command_line, run_finetune, run_pretrain

from winnow.compress import distill
from winnow.compress.distill import Distilled
from winnow.data import ingest as ingests
from winnow.data import store
from winnow.data.modality import Modality
from winnow.data.sources.files import Folder
from winnow.data.sources.tables import Table
from winnow.ssl import finetune, pretrain
from winnow.ssl import model as models
from winnow.ssl.classification import Classification, accuracy, predict
from winnow.ssl.data2vec import Data2Vec

# For what has nothing to do with the kind of samples.
VISION = pytest.mark.parametrize("kind", [KINDS[0]], ids=["vision"], indirect=True)
STAGES: dict[str, tuple[Any, Any]] = {
    "pretrain": (pretrain, Data2Vec),
    "finetune": (finetune, Classification),
    "distill": (distill, Distilled),
}


@pytest.fixture(autouse=True)
def no_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["stage"])


@pytest.fixture(scope="module")
def trained(modality: Modality, ingested: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both stages, from which `pretrain/logs` and `finetune/logs` are left."""
    root = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["stage"])
        encoder = run_pretrain(modality, ingested, root / "pretrain")
        run_finetune(modality, ingested, encoder, root / "finetune")
    return root


def run(patch: pytest.MonkeyPatch, word: str, trained: Path, stage: str, *words: Any) -> None:
    """Run a word of Lightning's on what a stage has left: its config and its last checkpoint."""
    logs = trained / stage / "logs"
    given = ["--config", logs / "config.yaml", "--ckpt_path", logs / "checkpoints/last.ckpt"]
    command_line(patch, *STAGES[stage], word, *given, *words)


def scored(trained: Path, stage: str, word: str) -> dict[str, float]:
    return pd.read_csv(trained / stage / "logs" / word / "metrics.csv").iloc[-1].to_dict()


def whole(modality: Modality, ingest: Path, split: str | None = None) -> tuple[list[str], torch.Tensor]:
    manifest = store.read_table(ingest / "manifest.parquet")
    part = manifest if split is None else manifest[manifest["split"] == split]
    payloads = dict(store.payloads(ingest, part["id"]))
    return list(part["id"]), torch.stack([modality.load(payloads[id_]) for id_ in part["id"]])


def test_validate_scores_the_validation_split_as_the_stage_did(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(monkeypatch, "validate", trained, "finetune", "--trainer.limit_val_batches", "1.0")
    wanted = store.read_json(trained / "finetune/finetune/metrics.json")["val_accuracy"]
    assert scored(trained, "finetune", "validate")["val/accuracy"] == pytest.approx(wanted, abs=1e-6)


def test_test_scores_the_test_split(
    modality: Modality, ingested: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(monkeypatch, "test", trained, "finetune")
    classifier = models.load_classifier(trained / "finetune/finetune")
    ids, x = whole(modality, ingested, "test")
    labels = store.read_table(ingested / "manifest.parquet").set_index("id")["label"][ids]
    label = torch.tensor([classifier.classes.index(name) for name in labels])
    logits = predict(classifier, x, 8)
    seen = scored(trained, "finetune", "test")
    assert seen["test/accuracy"] == pytest.approx(accuracy(logits, label))
    assert seen["test/loss"] == pytest.approx(torch.nn.functional.cross_entropy(logits, label).item(), 1e-4)


def test_validate_repeats_the_last_loss_of_pretraining(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(monkeypatch, "validate", trained, "pretrain")
    history = pd.read_csv(trained / "pretrain/pretrain/history.csv")
    seen = scored(trained, "pretrain", "validate")["val/loss"]
    assert seen == pytest.approx(history["val/loss"].iloc[-1], rel=1e-4)


def test_predict_writes_class_and_probabilities_of_every_sample_in_the_order_of_the_manifest(
    modality: Modality, ingested: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(monkeypatch, "predict", trained, "finetune", "--out", tmp_path / "predicted")
    table = pd.read_parquet(tmp_path / "predicted")
    classifier = models.load_classifier(trained / "finetune/finetune")
    ids, x = whole(modality, ingested)
    assert list(table.columns) == ["id", "class", "pred_probs"]
    assert list(table["id"]) == ids
    wanted = predict(classifier, x, 8).softmax(1)
    np.testing.assert_allclose(np.stack(table["pred_probs"]), wanted, atol=1e-5)
    assert list(table["class"]) == [classifier.classes[i] for i in wanted.argmax(1)]
    classes = pq.read_schema(tmp_path / "predicted/00000.parquet").metadata[b"classes"]
    assert yaml.safe_load(classes) == classifier.classes
    assert [path.name for path in tmp_path.iterdir()] == ["predicted"]


def test_predict_writes_the_embeddings_of_an_encoder_as_the_pipeline_reads_them(
    modality: Modality, ingested: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(monkeypatch, "predict", trained, "pretrain", "--out", tmp_path / "predicted")
    encoder = models.load_encoder(trained / "pretrain/pretrain")
    ids, x = whole(modality, ingested)
    with torch.no_grad():
        wanted = encoder.embed(x)
    np.testing.assert_allclose(store.read_vectors(tmp_path / "predicted", ids), wanted, atol=1e-5)


@VISION
def test_what_training_has_logged_stays_as_it_is(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs = trained / "finetune/logs"
    before = {path.name: path.read_bytes() for path in logs.iterdir() if path.is_file()}
    assert {"config.yaml", "metrics.csv"} < set(before)
    run(monkeypatch, "test", trained, "finetune")
    run(monkeypatch, "predict", trained, "finetune", "--out", tmp_path / "predicted")
    assert before == {path.name: path.read_bytes() for path in logs.iterdir() if path.is_file()}
    config = yaml.safe_load((logs / "test/config.yaml").read_text())
    assert config["ckpt_path"] == str(logs / "checkpoints/last.ckpt")


def test_predicts_new_samples_without_labels_by_the_classes_of_the_checkpoint(
    kind: Kind,
    modality: Modality,
    raw: Path,
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And scores none, as it would have to call classes by other names."""
    source = {
        "vision": Folder(labels="none"),
        "speech": Table(table="labels.csv", path="file"),
        "text": Table(text="text"),
    }[kind.name]
    unlabelled = tmp_path / "unlabelled"
    ingests.main(
        modality,
        raw,
        unlabelled,
        source=source,
        splits=ingests.Splits(validation=0.2, test=0.2),
        min_class_size=2,
        max_rejects=0.0,
        label_noise=0.0,
        seed=0,
        engine="local",
        workers=1,
    )
    there = ["--data.ingest", unlabelled, "--data.labels", unlabelled]
    run(monkeypatch, "predict", trained, "finetune", *there, "--out", tmp_path / "new")
    run(monkeypatch, "predict", trained, "finetune", "--out", tmp_path / "old")
    new, old = (pd.read_parquet(tmp_path / name).set_index("id") for name in ("new", "old"))
    assert len(new) == 72
    pd.testing.assert_series_equal(new["class"], old["class"][new.index])
    with pytest.raises(ValueError, match=re.escape("the samples []")):
        run(monkeypatch, "test", trained, "finetune", *there)


@VISION
def test_a_folder_that_is_there_is_not_overwritten(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "predicted").mkdir()
    with pytest.raises(FileExistsError, match=r"predicted exists: remove it"):
        run(monkeypatch, "predict", trained, "finetune", "--out", tmp_path / "predicted")


@pytest.mark.parametrize("word", ["validate", "test", "predict"])
def test_without_a_checkpoint_there_is_nothing_to_say(
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    word: str,
) -> None:
    words = [word, "--config", trained / "finetune/logs/config.yaml"]
    words += ["--out", tmp_path / "predicted"] if word == "predict" else []
    with pytest.raises(SystemExit) as caught:
        command_line(monkeypatch, finetune, Classification, *words)
    assert caught.value.code == 2
    assert f"{word} needs --ckpt_path" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        ("pretrain", {"fit", "validate", "predict"}),
        ("finetune", {"fit", "validate", "test", "predict"}),
        ("distill", {"fit", "validate"}),
    ],
)
def test_a_method_offers_what_it_can_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], stage: str, words: set[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        command_line(monkeypatch, *STAGES[stage], "--help")
    assert caught.value.code == 0
    listed = re.findall(r"^ +(fit|validate|test|predict) ", capsys.readouterr().out, re.M)
    assert set(listed) == words


@VISION
def test_the_printed_config_holds_what_is_overridden_and_the_callbacks_and_loggers_that_are_added(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--trainer.callbacks+", "RichModelSummary", "--trainer.callbacks.max_depth", "2"]
    words += ["--trainer.logger+", "CSVLogger", "--trainer.logger.save_dir", str(tmp_path / "more")]
    words += ["--data.batch_size", "4", "--out", str(tmp_path / "predicted")]
    with pytest.raises(SystemExit) as caught:
        run(monkeypatch, "predict", trained, "finetune", *words, "--print_config")
    assert caught.value.code == 0
    printed = capsys.readouterr().out
    config = yaml.safe_load(printed)
    assert config["data"]["batch_size"] == 4
    assert config["trainer"]["callbacks"][-1]["init_args"]["max_depth"] == 2
    assert config["trainer"]["logger"][-1]["init_args"]["save_dir"] == str(tmp_path / "more")
    (tmp_path / "config.yaml").write_text(printed)
    command_line(monkeypatch, finetune, Classification, "predict", "--config", tmp_path / "config.yaml")
    assert (tmp_path / "predicted/00000.parquet").exists()
    assert (tmp_path / "more").exists()


@VISION
def test_predicts_in_a_process_of_its_own(trained: Path, tmp_path: Path) -> None:
    logs = trained / "finetune/logs"
    words = ["--config", logs / "config.yaml", "--ckpt_path", logs / "checkpoints/last.ckpt"]
    output = subprocess.run(
        [sys.executable, "-m", "winnow.ssl.finetune", "predict", *map(str, words), "--out", "predicted"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert output.returncode == 0, output.stderr
    assert "Warning" not in re.sub(r"\S*Deprecat\S*", "", output.stderr)
    assert len(pd.read_parquet(tmp_path / "predicted")) == 72


@VISION
def test_a_checkpoint_of_another_kind_is_told_so(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights that a stage keeps are no checkpoint; neither is what others have pickled."""
    (tmp_path / "pickled.ckpt").write_bytes(b"\x80\x02}q\x00." * 10)
    for path in (trained / "finetune/finetune/model.safetensors", tmp_path / "pickled.ckpt"):
        words = ["--config", trained / "finetune/logs/config.yaml", "--ckpt_path", path]
        with pytest.raises(ValueError, match=f"{path.name} is no checkpoint"):
            command_line(monkeypatch, finetune, Classification, "test", *words)
