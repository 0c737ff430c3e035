"""The stage that trains one trunk for the three modalities."""

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import runs
import torch
import yaml
from conftest import KINDS, run_ingest
from runs import PRETRAIN, assert_same_files, assert_same_run, changed, command_line, run_finetune

from winnow.data import stage, store
from winnow.data.modality import build
from winnow.ssl import embed, pretrain_joint
from winnow.ssl import model as models
from winnow.ssl.joint import Joint
from winnow.ssl.monitor import Collapsed

NAMES = [kind.name for kind in KINDS]
SETTINGS: dict[str, Any] = {
    "turns": {"speech": 1, "vision": 2, "text": 1},
    "model": {"ema": {"start": 0.8, "end": 0.95}, "optimization": runs.OPTIMIZATION},
    "data": {"batch_size": 8, "streaming": None, "seed": 0},
    "trainer": {**PRETRAIN["trainer"], "max_steps": 12, "val_check_interval": 6},
    "threads": 1,
}
SECTIONS: dict[str, Any] = {
    "modalities": NAMES,
    **{
        kind.name: {
            "modality": kind.section,
            "pretrain": changed(PRETRAIN, model__masking__block=[3] * len(build(kind.section).grid)),
        }
        for kind in KINDS
    },
}
FILES = {"model.safetensors", "config.json", "history.csv", "metrics.json"}


@pytest.fixture(autouse=True)
def no_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["pretrain_joint"])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `ingest` and the first round leave of each modality; the round has dropped nothing."""
    root = tmp_path_factory.mktemp("data")
    for kind in KINDS:
        run_ingest(kind, kind.write(root / "raw" / kind.name), root / kind.name / "ingest")
        runs.decide(root / kind.name / "ingest", root / kind.name / "curate@1")
    return root


def run(data: Path, root: Path, sections: dict[str, Any] = SECTIONS, **changes: Any) -> Path:
    """Run the stage into `root/joint`, logs in `root/logs`."""
    out = root / "joint"
    out.mkdir(parents=True)
    pretrain_joint.main(data, out, **changed(SETTINGS, **changes), sections=sections, logs=root / "logs")
    return out


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run from start to end, with a checkpoint of every step."""
    root = tmp_path_factory.mktemp("whole")
    steps = {"dirpath": str(root / "steps"), "filename": "{step}", "every_n_train_steps": 1, "save_top_k": -1}
    callback = {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": steps}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["pretrain_joint"])
        run(data, root, trainer__callbacks=[callback])
    return root


def test_leaves_of_each_modality_what_pretrain_leaves(whole: Path) -> None:
    assert sorted(path.name for path in (whole / "joint").iterdir()) == sorted(NAMES)
    for kind in KINDS:
        out = whole / "joint" / kind.name
        assert {path.name for path in out.iterdir()} == FILES
        assert models.section(models.load_encoder(out).modality) == models.section(build(kind.section))
        metrics = store.read_json(out / "metrics.json")
        diagnosis = {"target_std", "sample_share", "embedding_std", "effective_rank"}
        assert set(metrics) == {"loss", "val/loss", *diagnosis}
        assert np.isfinite(list(metrics.values())).all()


def test_the_encoders_have_the_same_layers_to_the_bit_and_frontends_of_their_own(whole: Path) -> None:
    one, *others = (models.load_encoder(whole / "joint" / name) for name in NAMES)
    for other in others:
        for name, weight in one.layers.state_dict().items():
            assert weight.numpy().tobytes() == other.layers.state_dict()[name].numpy().tobytes()
        assert not torch.equal(next(one.frontend.parameters()), next(other.frontend.parameters()))


def test_a_history_has_the_losses_of_this_modalitys_turns(whole: Path) -> None:
    """Of which vision has two in a round of four, and the others one."""
    rows = runs.read(whole / "logs/checkpoints/last.ckpt")["callbacks"]["History"]["rows"]
    order = ["vision", "speech", "text", "vision"] * 3
    for name in NAMES:
        history = pd.read_csv(whole / "joint" / name / "history.csv", index_col="step")
        first = order.index(name) + 1
        assert list(history.index) == list(range(first, 13))
        changes = [
            step for step in range(first + 1, 13) if history["loss"][step] != history["loss"][step - 1]
        ]
        assert [first, *changes] == [step for step, of in enumerate(order, 1) if of == name]
        assert history["loss"][12] == pytest.approx(rows[12][f"{name}/loss"], rel=1e-5)
        assert history["val/loss"][12] == pytest.approx(rows[12][f"val/{name}/loss"], rel=1e-5)


def test_later_stages_take_them_as_any_encoder(data: Path, whole: Path, tmp_path: Path) -> None:
    for kind in KINDS:
        modality, ingest, encoder = (
            build(kind.section),
            data / kind.name / "ingest",
            whole / "joint" / kind.name,
        )
        out = tmp_path / kind.name
        (out / "embed").mkdir(parents=True)
        embed.main(modality, ingest, encoder, out / "embed", batch_size=32, seed=0, threads=1)
        manifest = store.read_table(ingest / "manifest.parquet")
        assert store.read_vectors(out / "embed/embeddings", manifest["id"]).shape == (72, 32)
    classifier = run_finetune(modality, ingest, encoder, tmp_path / "text", trainer__max_steps=2)
    assert models.load_classifier(classifier).encoder.shape == models.load_encoder(encoder).shape


def test_the_stage_reads_params_yaml_and_leaves_the_same_bytes_again(
    data: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({**SECTIONS, "pretrain_joint": SETTINGS}))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["pretrain_joint", str(data), "out/joint"])
    torch.manual_seed(12345)  # whatever happened before
    before = signal.getsignal(signal.SIGTERM)
    stage.run(pretrain_joint.main)
    signal.signal(signal.SIGTERM, before)
    assert_same_files(whole / "joint", tmp_path / "out/joint")
    assert (tmp_path / "logs/pretrain_joint/config.yaml").exists()


def again(patch: pytest.MonkeyPatch, whole: Path, root: Path, *words: Any, **changes: Any) -> Path:
    """Repeat a run on the command line, from the config that it left."""
    config = (whole / "logs/config.yaml").read_text().replace(str(whole), str(root))
    root.mkdir(exist_ok=True)
    (root / "config.yaml").write_text(yaml.safe_dump(changed(yaml.safe_load(config), **changes)))
    patch.chdir(root)
    command_line(patch, pretrain_joint, Joint, "fit", "--config", root / "config.yaml", *words)
    return root / "logs/checkpoints/last.ckpt"


def test_a_resumed_run_ends_where_the_whole_run_ended(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the middle of a round, and with the keys of its config in another order."""
    last = again(monkeypatch, whole, tmp_path, "--ckpt_path", whole / "steps/step=5.ckpt")
    assert_same_run(whole / "logs/checkpoints/last.ckpt", last)
    for name in NAMES:
        one, other = (
            models.load_encoder(folder / name) for folder in (tmp_path / "logs/model", whole / "joint")
        )
        runs.assert_same(one.state_dict(), other.state_dict())


def test_a_checkpoint_holds_shared_weights_once(whole: Path) -> None:
    held = runs.read(whole / "logs/checkpoints/last.ckpt")["state_dict"]
    assert len({name.split(".")[1] for name in held if ".student.layers." in name}) == 1
    assert len({name.split(".")[1] for name in held if ".teacher.frontend." in name}) == 3


def test_two_processes_train_as_one_with_twice_the_batch(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As in test_scaleout: without dropout, and with an `eps` above the rounding errors.
    still = {"model__shape": {"dropout": 0.0}, "model__optimization__eps": 1e-4, "trainer__max_steps": 4}
    run(data, tmp_path, **still, trainer__val_check_interval=4)
    one = runs.read(tmp_path / "logs/checkpoints/last.ckpt")
    config = (tmp_path / "logs/config.yaml").read_text().replace(f"{tmp_path}/logs", f"{tmp_path}/two")
    # A modality whose turn it is not has no gradients, at which plain data parallelism stops.
    two = {
        "trainer__strategy": "ddp_find_unused_parameters_true",
        "trainer__devices": 2,
        "data__batch_size": 4,
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(changed(yaml.safe_load(config), **two)))
    runs.wait(runs.fork_two(pretrain_joint, Joint, "fit", "--config", tmp_path / "config.yaml"))
    other = runs.read(tmp_path / "two/checkpoints/last.ckpt")
    assert one["global_step"] == other["global_step"] == 4
    torch.testing.assert_close(one["state_dict"], other["state_dict"], atol=1e-5, rtol=1e-4)
    a, b = (pd.DataFrame(run["callbacks"]["History"]["rows"]) for run in (one, other))
    pd.testing.assert_frame_equal(a, b, atol=1e-5, rtol=1e-4)


def test_a_collapse_of_one_modality_is_told_with_its_name(data: Path, tmp_path: Path) -> None:
    """Nothing is so varied that it would do for text."""
    sections = changed(SECTIONS, text__pretrain__monitor__min_sample_share=2.0)
    sections = changed(sections, text__pretrain__monitor__patience=1)
    with pytest.raises(Collapsed, match=r"text.*collapse at step 8: sample_share"):
        run(data, tmp_path, sections)


def test_a_modality_without_a_section_is_bad_input(data: Path, tmp_path: Path) -> None:
    with pytest.raises(stage.BadInput, match=r"turns name \['smell'\]; modalities are \['vision', 'speech"):
        run(data, tmp_path, turns={"smell": 1, "text": 1})


def test_a_shape_that_differs_names_the_setting(data: Path, tmp_path: Path) -> None:
    sections = changed(SECTIONS, text__pretrain__model__shape__heads=4)
    with pytest.raises(ValueError, match=r"one shape\.heads; it is 2 for speech, 4 for text, 2 for vision"):
        run(data, tmp_path, sections)


def test_a_trunk_of_timm_cannot_be_shared_and_says_what_to_do(data: Path, tmp_path: Path) -> None:
    borrowed = {"timm": "vit_tiny_patch16_224", "options": {}, "weights": None, "blocks": None}
    sections = changed(SECTIONS, vision__pretrain__model__shape=borrowed)
    with pytest.raises(
        stage.BadInput, match=r"vision\.pretrain\.model\.shape names .* or leave the modality out"
    ):
        run(data, tmp_path, sections)
