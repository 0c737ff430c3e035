"""Several processes train as one does, on the CPU: started by a user, or forked where that is no matter."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import runs
import torch
import yaml
from conftest import KINDS, Kind, run_ingest
from runs import run_finetune, run_pretrain

from winnow.data.modality import Modality, build
from winnow.ssl import finetune, pretrain
from winnow.ssl import model as models
from winnow.ssl.classification import Classification
from winnow.ssl.data2vec import Data2Vec

TEXT: Kind = KINDS[2]  # of different lengths: ranks hide different numbers of tokens
# Without dropout, which each process draws for itself; and with an `eps` above the rounding errors, of which
# Adam makes whole steps where the gradient is nothing else, as of the keys' bias.
EXACT = {
    "trainer__max_steps": 4,
    "trainer__val_check_interval": 2,
    "model__optimization__eps": 1e-4,
    "trainer__gradient_clip_val": 0.1,  # below every gradient's norm
}
ALONE = {"model__shape__dropout": 0.0, **EXACT}
# A sample is to be told from those of all processes.
STILL = {
    **ALONE,
    "model__instances": {"weight": 1.0, "temperature": 0.2, "layers": 2, "ratio": 1.0, "dim": 8},
    "data__variants": {"number": 2, "strength": 1.0},
}


@pytest.fixture(scope="session")
def modality() -> Modality:
    return build(TEXT.section)


@pytest.fixture(scope="session")
def ingested(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scaleout")
    return run_ingest(TEXT, TEXT.write(root / "raw"), root / "ingest")


@pytest.fixture(autouse=True)
def no_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["stage"])


def checkpoint(root: Path) -> dict[str, Any]:
    return runs.read(root / "logs/checkpoints/last.ckpt")


def write_config(whole: Path, root: Path, **changes: Any) -> Path:
    """Write what a run is started by, in a folder of another one, with some settings changed."""
    config = yaml.safe_load((whole / "logs/config.yaml").read_text().replace(f"{whole}/logs", f"{root}/logs"))
    root.mkdir(exist_ok=True)
    (root / "config.yaml").write_text(yaml.safe_dump(runs.changed(config, **changes)))
    return root / "config.yaml"


def again(whole: Path, root: Path, *words: Any, **changes: Any) -> dict[str, Any]:
    """Repeat pretraining by two processes with some of its settings changed, and read what it left."""
    given = ("fit", "--config", write_config(whole, root, **two(**changes)), *words)
    runs.wait(runs.fork_two(pretrain, Data2Vec, *given))
    return checkpoint(root)


def alone() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def two(**changes: Any) -> dict[str, Any]:
    return {"trainer__strategy": "ddp", "trainer__devices": 2, "data__batch_size": 4, **changes}


def assert_close(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Two runs agree in weights, teacher and all that was logged, up to the order of sums."""
    assert one["global_step"] == other["global_step"]
    torch.testing.assert_close(one["state_dict"], other["state_dict"], atol=1e-5, rtol=1e-4)
    a, b = (pd.DataFrame(run["callbacks"]["History"]["rows"]) for run in (one, other))
    pd.testing.assert_frame_equal(a, b, atol=1e-5, rtol=1e-4)


@pytest.fixture(scope="module")
def pretrained(modality: Modality, ingested: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("one")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["pretrain"])
        run_pretrain(modality, ingested, root, **STILL)
    return root


@pytest.fixture(scope="module")
def doubled(pretrained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("two")
    words = ["-m", "winnow.ssl.pretrain", "fit", "--config", write_config(pretrained, root, **two())]
    done = subprocess.run([sys.executable, *words], cwd=root, env=alone(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return root


def test_two_processes_pretrain_as_one_with_twice_the_batch(pretrained: Path, doubled: Path) -> None:
    assert_close(checkpoint(pretrained), checkpoint(doubled))


def test_two_processes_with_a_part_of_the_weights_each_pretrain_as_one(
    pretrained: Path, tmp_path: Path
) -> None:
    parts = again(pretrained, tmp_path, trainer__strategy="fsdp")
    assert_close(checkpoint(pretrained), parts)
    for name, weight in models.load_encoder(tmp_path / "logs/model").state_dict().items():
        assert torch.equal(weight, parts["state_dict"][f"student.{name}"])


def test_two_processes_with_a_part_of_the_weights_each_go_on_with_what_one_has_begun(
    pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--ckpt_path", pretrained / "logs/checkpoints/last.ckpt"]
    path = write_config(pretrained, tmp_path / "one", trainer__max_steps=8)
    runs.command_line(monkeypatch, pretrain, Data2Vec, "fit", "--config", path, *words)
    one = checkpoint(tmp_path / "one")
    parts = again(pretrained, tmp_path / "two", *words, trainer__strategy="fsdp", trainer__max_steps=8)
    assert one["global_step"] == 8
    assert_close(one, parts)
    (plain,), (whole,) = one["optimizer_states"], parts["optimizer_states"]
    runs.assert_same(plain["param_groups"], whole["param_groups"])
    torch.testing.assert_close(plain["state"], whole["state"], atol=1e-5, rtol=1e-3)


def test_two_processes_log_as_one(pretrained: Path, doubled: Path) -> None:
    logged, wanted = (pd.read_csv(root / "logs/metrics.csv") for root in (doubled, pretrained))
    pd.testing.assert_frame_equal(logged, wanted, atol=1e-5, rtol=1e-3)
    names = [sorted(path.name for path in (root / "logs").rglob("*")) for root in (doubled, pretrained)]
    assert len(names[0]) == len(names[1]) + 3  # `fit` keeps the network there; one file of events


def test_a_run_leaves_beside_its_logs_the_network_that_stages_read(doubled: Path) -> None:
    encoder, state = models.load_encoder(doubled / "logs/model"), checkpoint(doubled)["state_dict"]
    for name, weight in encoder.state_dict().items():
        assert torch.equal(weight, state[f"student.{name}"])


def test_accumulated_batches_pretrain_as_one_of_their_size(
    modality: Modality, ingested: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for instances, which are told from those of the same batch."""
    whole = tmp_path / "whole"
    run_pretrain(modality, ingested, whole, **ALONE)
    halves = {"data__batch_size": 4, "trainer__accumulate_grad_batches": 2}
    # Lightning counts batches, and not updates, between two validations and in each.
    halves |= {"trainer__val_check_interval": 4, "trainer__limit_val_batches": 4}
    path = write_config(whole, tmp_path / "halves", **halves)
    runs.command_line(monkeypatch, pretrain, Data2Vec, "fit", "--config", path)
    assert_close(checkpoint(whole), checkpoint(tmp_path / "halves"))


@pytest.mark.parametrize(
    ("options", "strategy"),
    [
        ({}, "ddp"),
        ({"model__freeze": 0.5, "model__layer_decay": 0.7}, "ddp_find_unused_parameters_true"),
    ],
)
def test_two_processes_finetune_as_one_with_twice_the_batch(
    modality: Modality,
    ingested: Path,
    pretrained: Path,
    tmp_path: Path,
    options: dict[str, Any],
    strategy: str,
) -> None:
    one = tmp_path / "one"
    run_finetune(modality, ingested, pretrained / "pretrain", one, **EXACT, model__dropout=0.0, **options)
    path = write_config(one, tmp_path / "two", **two(trainer__strategy=strategy))
    runs.wait(runs.fork_two(finetune, Classification, "fit", "--config", path))
    assert_close(checkpoint(one), checkpoint(tmp_path / "two"))


def test_killed_processes_are_taken_up_where_their_last_checkpoint_left_them(
    pretrained: Path, tmp_path: Path
) -> None:
    """With dropout, accumulation and two processes, in the middle of an epoch: to the bit."""
    settings = {
        "model__shape__dropout": 0.1,
        "trainer__accumulate_grad_batches": 2,
        "trainer__max_steps": 12,
    }
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    again(pretrained, whole, **settings)
    last = killed / "logs/checkpoints/last.ckpt"
    path = write_config(pretrained, killed, **two(**settings))
    processes = runs.fork_two(pretrain, Data2Vec, "fit", "--config", path).processes
    deadline = time.monotonic() + 60
    while not last.exists() and all(one.is_alive() for one in processes) and time.monotonic() < deadline:
        time.sleep(0.002)
    for one in processes:
        one.kill()  # no time for a last word
        one.join()
    assert [one.exitcode for one in processes] == [-signal.SIGKILL] * 2
    assert 0 < runs.read(last)["global_step"] < 12
    again(pretrained, killed, "--ckpt_path", last, **settings)
    runs.assert_same_run(whole / "logs/checkpoints/last.ckpt", last)


def test_a_stage_of_two_processes_leaves_what_a_stage_leaves(
    ingested: Path, pretrained: Path, tmp_path: Path
) -> None:
    section = runs.changed(runs.PRETRAIN, **STILL, **two())
    section["model"]["masking"]["block"] = [3]
    params = {"text": {"modality": TEXT.section, "pretrain": section}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    command = [sys.executable, "-m", "winnow.ssl.pretrain", "text", ingested, ingested, "out/text/pretrain"]
    done = subprocess.run(command, cwd=tmp_path, env=alone(), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (tmp_path / "out/text").iterdir()] == ["pretrain"]
    files = {path.name for path in (tmp_path / "out/text/pretrain").iterdir()}
    assert files == {"model.safetensors", "config.json", "history.csv", "metrics.json"}
    one, other = (
        pd.read_csv(root / "history.csv")
        for root in (tmp_path / "out/text/pretrain", pretrained / "pretrain")
    )
    pd.testing.assert_frame_equal(one, other, atol=1e-5, rtol=1e-3)
