import copy
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import runs
import torch
from test_probe import plant, split
from tiny_trunk import OPTIMIZATION

from winnow.data import store
from winnow.data.batches import Variants
from winnow.data.modality import Modality
from winnow.data.stage import BadInput
from winnow.ssl import effect
from winnow.ssl import model as models
from winnow.ssl.effect import Finetuning, Probing
from winnow.ssl.trunk import Encoder

FILES = {"effect.json", "metrics.json", "accuracy.csv"}
ONE = Variants(number=1, strength=1.0)
SETTINGS: dict[str, Any] = {
    "probe": Probing(seeds=3, rows=1000, inverse_penalty=3.0),
    "finetune": Finetuning(
        seeds=2, inverse_penalty=1.0, steps=2, variants=ONE, batch_size=4, dropout=0.1, label_smoothing=0.1,
        optimization=OPTIMIZATION, gradient_clip=1.0, accelerator="cpu",
    ),
    "seed": 0,
    "threads": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def noisy(ingested: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the manifest in which a third of the train labels are wrong, and the truth beside it."""
    ingest = tmp_path_factory.mktemp("noisy") / "ingest"
    ingest.mkdir()
    (ingest / "samples").symlink_to(ingested / "samples")
    manifest = store.read_table(ingested / "manifest.parquet")
    store.write_table(ingest / "truth.parquet", manifest[["id", "label"]])
    classes = store.read_classes(ingested)
    train = manifest["split"] == "train"
    wrong = train & (np.random.default_rng(0).random(len(manifest)) < 0.35)
    turned = [classes[(classes.index(label) + 1) % 3] for label in manifest["label"]]
    store.write_table(
        ingest / "manifest.parquet",
        manifest.assign(label=np.where(wrong, turned, manifest["label"]).astype(object)),
    )
    return ingest


@pytest.fixture(scope="module")
def root(modality: Modality, ingested: Path, noisy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two rounds, of which the first drops what is wrong and the second mends it; embeddings; an encoder."""
    root = tmp_path_factory.mktemp("root")
    given = store.read_table(noisy / "manifest.parquet").set_index("id")["label"]
    true = store.read_table(noisy / "truth.parquet").set_index("id")["label"]
    wrong = [id_ for id_ in given.index if given[id_] != true[id_]]
    runs.decide(noisy, root / "curate@1", *wrong)
    runs.decide(noisy, root / "curate@2", wrong[0], **{id_: true[id_] for id_ in wrong[1:]})
    plant(root / "embed", ingested, signal=2.0)
    torch.manual_seed(0)
    (root / "pretrain").mkdir()
    models.save(Encoder(modality, runs.SHAPE), root / "pretrain")
    return root


def run(
    modality: Modality, ingest: Path, root: Path, out: Path, rounds: tuple[int, ...] = (1, 2), **changes: Any
) -> dict[str, Any]:
    out.mkdir(parents=True)
    settings = {**copy.deepcopy(SETTINGS), **changes}
    effect.main(
        modality, ingest, root, root / "embed", root / "pretrain", out, rounds=list(rounds), **settings
    )
    return store.read_json(out / "effect.json")


@pytest.fixture(scope="module")
def done(modality: Modality, noisy: Path, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("effect") / "out"
    run(modality, noisy, root, out)
    return out


def test_measures_every_round_beside_its_controls(noisy: Path, done: Path) -> None:
    assert {path.name for path in done.iterdir()} == FILES
    found = store.read_json(done / "effect.json")
    assert (found["schema_version"], found["rounds"]) == (1, [1, 2])
    assert found["test"]["samples"] == len(split(noisy, "test"))
    probe, finetune = found["measures"]
    names = [arm["arm"] for arm in probe["arms"]]
    assert names == ["delivered", "round@1", "random_drop@1", "round@2", "random_drop@2", "oracle"]
    assert [arm["arm"] for arm in finetune["arms"]] == ["delivered", "round@2", "random_drop@2", "oracle"]
    for measure, seeds in ((probe, 3), (finetune, 2)):
        assert (measure["status"], measure["seeds"], measure["absent"]) == ("ok", seeds, [])
        for arm in measure["arms"]:
            assert len(arm["accuracies"]) == seeds
            assert arm["mean"] == pytest.approx(np.mean(arm["accuracies"]), abs=1e-6)
            assert 0 <= arm["low"] <= arm["mean"] <= arm["high"] <= 1
        for gain in measure["gains"]:
            assert gain["low_points"] <= gain["value_points"] <= gain["high_points"]
    sizes = {arm["arm"]: (arm["n"], arm["dropped"], arm["relabelled"]) for arm in probe["arms"]}
    train = len(split(noisy, "train"))
    wrong = sizes["round@1"][1]
    assert wrong > 5
    assert sizes == {
        "delivered": (train, 0, 0),
        "round@1": (train - wrong, wrong, 0),
        "random_drop@1": (train - wrong, wrong, 0),
        "round@2": (train - 1, 1, wrong - 1),
        "random_drop@2": (train - 1, 1, 0),
        "oracle": (train, 0, wrong),
    }


def test_metrics_and_the_curve_say_the_same(done: Path) -> None:
    probe, finetune = store.read_json(done / "effect.json")["measures"]
    metrics = store.read_json(done / "metrics.json")
    for measure in (probe, finetune):
        for arm in measure["arms"]:
            name = f"{measure['measure']}_{arm['arm'].replace('@', '')}_accuracy"
            assert metrics[name] == arm["mean"]
    gain = next(one for one in probe["gains"] if (one["arm"], one["against"]) == ("round@2", "delivered"))
    assert metrics["probe_round2_gain_points"] == gain["value_points"]
    assert metrics["probe_round2_gain_points_low"] == gain["low_points"]
    curve = pd.read_csv(done / "accuracy.csv", index_col="round")
    mean = {arm["arm"]: arm["mean"] for arm in probe["arms"]}
    assert curve["cleaned"].tolist() == pytest.approx([mean[a] for a in ("delivered", "round@1", "round@2")])
    assert curve["random_drop"][1] == pytest.approx(mean["random_drop@1"])
    assert curve["oracle"].tolist() == pytest.approx([mean["oracle"]] * 3)


def test_two_runs_leave_the_same_bytes(
    modality: Modality, noisy: Path, root: Path, done: Path, tmp_path: Path
) -> None:
    torch.manual_seed(12345)
    run(modality, noisy, root, tmp_path / "out")
    runs.assert_same_files(done, tmp_path / "out")


def test_a_rounds_decisions_about_other_splits_change_nothing(
    modality: Modality, noisy: Path, root: Path, tmp_path: Path
) -> None:
    """Dropped or relabelled, test samples are scored as delivered, and validation is not touched."""
    plain = run(modality, noisy, root, tmp_path / "plain", rounds=(1,), finetune=None)
    test, validation = split(noisy, "test"), split(noisy, "validation")
    decided = store.read_table(root / "curate@1" / "decisions.parquet")
    other = tmp_path / "other"
    (other / "curate@1").mkdir(parents=True)
    decided.loc[decided["id"].isin([*test[::2], *validation]), "action"] = "drop"
    decided.loc[decided["id"].isin(test[1::2]), "label"] = store.read_classes(noisy)[0]
    store.write_table(other / "curate@1" / "decisions.parquet", decided)
    for name in ("embed", "pretrain"):
        (other / name).symlink_to(root / name)
    assert run(modality, noisy, other, tmp_path / "out", rounds=(1,), finetune=None) == plain


def test_without_planted_labels_there_is_no_oracle_and_no_recovery(
    modality: Modality, ingested: Path, root: Path, tmp_path: Path
) -> None:
    found = run(modality, ingested, root, tmp_path / "out", rounds=(1,), finetune=None)
    probe, finetune = found["measures"]
    assert probe["absent"] == [{"arm": "oracle", "reason": "no label is known to be wrong"}]
    (recovery,) = probe["recovery"]
    assert (recovery["status"], recovery["value"]) == ("skipped", None)
    assert recovery["reason"] == "no label is known to be wrong"
    assert (finetune["status"], finetune["reason"]) == ("skipped", "params.yaml leaves it out")
    assert "probe_round1_recovery" not in store.read_json(tmp_path / "out" / "metrics.json")


@pytest.mark.parametrize("name", ["probe", "finetune"])
def test_one_seed_is_refused_with_what_to_change(
    modality: Modality, noisy: Path, root: Path, tmp_path: Path, name: str
) -> None:
    settings = copy.deepcopy(SETTINGS[name])
    object.__setattr__(settings, "seeds", 1)
    with pytest.raises(BadInput, match=rf"effect\.{name}\.seeds: 1 is too few"):
        run(modality, noisy, root, tmp_path / "out", **{name: settings})


def test_unlabelled_data_is_refused_in_words(
    modality: Modality, ingested: Path, root: Path, tmp_path: Path
) -> None:
    ingest = tmp_path / "ingest"
    ingest.mkdir()
    manifest = store.read_table(ingested / "manifest.parquet").assign(label=None)
    manifest.loc[0, ["split", "label"]] = ["train", "alone"]
    store.write_table(ingest / "manifest.parquet", manifest)
    store.write_table(ingest / "truth.parquet", manifest[["id", "label"]])
    with pytest.raises(BadInput, match="needs labelled samples to train and to test on"):
        run(modality, ingest, root, tmp_path / "out", rounds=())
