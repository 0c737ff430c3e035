from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pandas as pd
import pytest
import runs
import tiny
import torch
from runs import assert_same_files, run_finetune
from tiny_trunk import SHAPE

from winnow.data import store
from winnow.data.batches import Variants, stack
from winnow.data.datamodule import Samples
from winnow.data.modality import Modality
from winnow.data.store import read_classes
from winnow.data.vision import Vision
from winnow.ssl import model as models
from winnow.ssl.classification import pooled, predict, solve_head
from winnow.ssl.trunk import Encoder

FILES = {"model.safetensors", "config.json", "history.csv", "metrics.json"}


@pytest.fixture(autouse=True)
def no_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["finetune"])


@pytest.fixture(scope="module")
def encoder(modality: Modality, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)
    models.save(Encoder(modality, runs.SHAPE), folder)
    return folder


@pytest.fixture(scope="module")
def finetuned(
    modality: Modality, ingested: Path, encoder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["finetune"])
        return run_finetune(modality, ingested, encoder, tmp_path_factory.mktemp("once"))


def test_gives_a_classifier_with_its_history_and_its_validation_accuracy(
    modality: Modality, ingested: Path, finetuned: Path
) -> None:
    assert {path.name for path in finetuned.iterdir()} == FILES
    classifier = models.load_classifier(finetuned)
    assert classifier.classes == read_classes(ingested)
    assert models.section(classifier.encoder.modality) == models.section(modality)

    manifest = store.read_table(ingested / "manifest.parquet")
    part = manifest[manifest["split"] == "validation"]
    payloads = dict(store.payloads(ingested, part["id"]))
    x = torch.stack([modality.load(payloads[id_]) for id_ in part["id"]])
    named = [classifier.classes[i] for i in predict(classifier, x, 256).argmax(1).tolist()]
    wanted = np.mean([a == b for a, b in zip(named, part["label"], strict=True)])
    assert store.read_json(finetuned / "metrics.json") == {"val_accuracy": pytest.approx(wanted, abs=1e-6)}
    history = pd.read_csv(finetuned / "history.csv", index_col="step")
    assert list(history.index) == [1, 2, 3, 4, 5, 6]
    assert list(history["samples"]) == [8, 16, 24, 32, 40, 48]
    assert history["loss"].notna().all()


def test_trains_trunk_and_head(encoder: Path, finetuned: Path) -> None:
    start = dict(models.load(encoder).named_parameters())
    for name, weight in models.load_encoder(finetuned).named_parameters():
        assert not torch.equal(weight, start[name]), name


def test_two_runs_leave_the_same_bytes(
    modality: Modality, ingested: Path, encoder: Path, finetuned: Path, tmp_path: Path
) -> None:
    torch.manual_seed(12345)
    assert_same_files(finetuned, run_finetune(modality, ingested, encoder, tmp_path))


def test_dropout_is_at_work(
    modality: Modality, ingested: Path, encoder: Path, finetuned: Path, tmp_path: Path
) -> None:
    without = run_finetune(modality, ingested, encoder, tmp_path, model__dropout=0.0)
    a, b = (models.load(folder).state_dict() for folder in (finetuned, without))
    assert any(not torch.equal(a[name], b[name]) for name in a)


def test_an_unlabelled_sample_counts_as_little_as_a_dropped_one(
    modality: Modality, ingested: Path, encoder: Path, finetuned: Path, tmp_path: Path
) -> None:
    manifest = store.read_table(ingested / "manifest.parquet")
    some = manifest[manifest["split"] == "train"]["id"][::2]
    outs = [
        run_finetune(
            modality,
            ingested,
            encoder,
            tmp_path / name,
            runs.decide(ingested, tmp_path / f"{name}-labels", *drops, **dict.fromkeys(nameless)),
        )
        for name, drops, nameless in (("dropped", some, ()), ("unlabelled", (), some))
    ]
    assert_same_files(*outs)
    weights = [(out / "model.safetensors").read_bytes() for out in (finetuned, outs[0])]
    assert weights[0] != weights[1]


def test_never_sees_the_test_split(
    modality: Modality, ingested: Path, encoder: Path, finetuned: Path, tmp_path: Path
) -> None:
    manifest = store.read_table(ingested / "manifest.parquet")
    test = manifest[manifest["split"] == "test"]["id"]
    labels = runs.decide(ingested, tmp_path / "labels", *test)
    assert_same_files(finetuned, run_finetune(modality, ingested, encoder, tmp_path, labels))


def test_learns_the_classes(modality: Modality, ingested: Path, encoder: Path, tmp_path: Path) -> None:
    out = run_finetune(
        modality,
        ingested,
        encoder,
        tmp_path,
        model__dropout=0.0,
        trainer__max_steps=100,
        trainer__val_check_interval=100,
        trainer__limit_val_batches=None,
        trainer__log_every_n_steps=10,
    )
    assert store.read_json(out / "metrics.json")["val_accuracy"] > 0.6  # chance is a third
    history = pd.read_csv(out / "history.csv", index_col="step")
    assert history["loss"].iloc[-1] < 0.8 * history["loss"].iloc[0]


def test_goes_on_from_a_classifier_as_well_as_from_an_encoder(
    modality: Modality, ingested: Path, finetuned: Path, tmp_path: Path
) -> None:
    out = run_finetune(modality, ingested, finetuned, tmp_path)
    assert models.load_classifier(out).classes == read_classes(ingested)


def test_refuses_an_encoder_that_reads_other_samples(
    modality: Modality, ingested: Path, tmp_path: Path
) -> None:
    """One that was imported comes with a modality of its own, and shapes alone would say it late or never."""
    torch.manual_seed(0)
    models.save(Encoder(Vision(size=8, patch=2, channels=1), SHAPE), tmp_path)
    with pytest.raises(ValueError, match=r"the encoder reads .*'patch': 2.* params.yaml's modality"):
        run_finetune(modality, ingested, tmp_path, tmp_path / "out")


def test_a_head_may_start_as_the_logistic_regression_of_the_labels(
    modality: Modality, ingested: Path, encoder: Path, tmp_path: Path
) -> None:
    out = run_finetune(
        modality, ingested, encoder, tmp_path, model__inverse_penalty=0.5, model__optimization__lr=1e-12
    )
    trunk, classes = models.load_encoder(encoder), read_classes(ingested)
    manifest = store.read_table(ingested / "manifest.parquet")
    train = stack(modality, ingested, manifest[manifest["split"] == "train"], classes)
    wanted = models.Classifier(trunk, classes)
    solve_head(wanted.head, pooled(trunk, train.x, 256), train.label, 0.5)
    found = models.load_classifier(out)
    torch.testing.assert_close(predict(found, train.x, 256), predict(wanted, train.x, 256), atol=1e-4, rtol=0)


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning", "ignore:.*`IterableDataset` has `__len__`")
def test_a_resumed_run_keeps_the_head_that_it_has(
    modality: Modality, ingested: Path, encoder: Path, tmp_path: Path
) -> None:
    """One that was solved anew would undo what was learned until then."""

    class Middle(lightning.Callback):
        def on_train_batch_end(self, trainer: lightning.Trainer, *rest: Any) -> None:
            if trainer.global_step == 2:
                trainer.save_checkpoint(tmp_path / "2.ckpt")

    def fit(*callbacks: lightning.Callback, **resume: Any) -> dict[str, torch.Tensor]:
        settings = runs.FINETUNE["data"] | {"labelled": True}
        samples = Samples(
            modality, ingested, ingested, **{**settings, "variants": Variants(**settings["variants"])}
        )
        method = tiny.classification(encoder, modality, classes=samples.classes, inverse_penalty=0.5)
        tiny.trainer(4, *callbacks).fit(method, datamodule=samples, **resume)
        return method.classifier.state_dict()

    runs.assert_same(fit(Middle()), fit(ckpt_path=tmp_path / "2.ckpt"))
