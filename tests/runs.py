"""Training stages at a size that a test can wait for, and what they leave behind."""

import copy
import os
import socket
import sys
import warnings
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import tiny_trunk
import torch
from tiny_trunk import SHAPE
from torch import distributed, multiprocessing

from winnow.data import store
from winnow.data.modality import Modality
from winnow.ssl import checkpoint, finetune, pretrain, train

OPTIMIZATION: dict[str, Any] = tiny_trunk.section(tiny_trunk.OPTIMIZATION, lr=0.003, warmup=0.2)
PRETRAIN: dict[str, Any] = {
    "model": {
        "shape": tiny_trunk.section(SHAPE),
        "masking": {"ratio": 0.5, "adjust": 0.1, "block": [3], "inverse": False},
        "masks": 2,
        "complementary": False,
        "target": {"layers": 2, "tap": "feed_forward", "norm": "instance", "final_norm": "layer"},
        "predictor": {
            "layers": 1,
            "dim": 16,
            "kernel": 3,
            "groups": 2,
            "residual": True,
            "out_layers": 1,
            "out_ratio": 1.0,
            "noise_std": 0.01,
            "dropout": 0.0,
        },
        "loss": {"beta": 0.0, "scale": "root", "visible": 0.5, "extra": 0.0},
        "instances": None,
        "ema": {"start": 0.9, "end": 0.99, "ramp": 0.5, "steps": None, "shared": []},
        "optimization": OPTIMIZATION,
        "frontend_lr": 1.0,
    },
    "data": {"batch_size": 8, "streaming": None, "variants": {"number": 1, "strength": 1.0}, "seed": 0},
    "trainer": {
        "max_steps": 6,
        "val_check_interval": 3,
        "limit_val_batches": 2,
        "log_every_n_steps": 1,
        "num_sanity_val_steps": 0,
        "gradient_clip_val": 4.0,
        "accelerator": "cpu",
    },
    "monitor": {
        "every_steps": 2,
        "samples": 8,
        "grace": 0.0,
        "patience": 100,
        "min_target_std": 0.1,
        "min_sample_share": 0.05,
        "min_embedding_std": 0.25,
        "action": "stop",
    },
    "threads": 1,
}
FINETUNE: dict[str, Any] = {
    "model": {
        "dropout": 0.2,
        "label_smoothing": 0.1,
        "layer_decay": 1.0,
        "freeze": 0.0,
        "mixup": None,
        "inverse_penalty": None,
        "optimization": OPTIMIZATION,
    },
    "data": {"batch_size": 8, "streaming": None, "variants": {"number": 1, "strength": 1.0}, "seed": 0},
    "trainer": PRETRAIN["trainer"],
    "threads": 1,
}


def changed(settings: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Copy a section with some keys set: `model__masks=1` is the key `masks` in `model`."""
    settings = copy.deepcopy(settings)
    for path, value in changes.items():
        *sections, key = path.split("__")
        part = settings
        for name in sections:
            part = part[name]
        part[key] = value
    return settings


def run_pretrain(
    modality: Modality, ingest: Path, root: Path, labels: Path | None = None, **changes: Any
) -> Path:
    """Run the stage into `root/pretrain`, logs in `root/logs`."""
    out = root / "pretrain"
    out.mkdir(parents=True)
    changes = {"model__masking__block": [3] * len(modality.grid), **changes}
    section = changed(PRETRAIN, **changes)
    pretrain.main(modality, ingest, labels or ingest, out, **section, logs=root / "logs")
    return out


def run_finetune(
    modality: Modality,
    ingest: Path,
    encoder: Path,
    root: Path,
    labels: Path | None = None,
    **changes: Any,
) -> Path:
    """Run the stage into `root/finetune`, logs in `root/logs`."""
    out = root / "finetune"
    out.mkdir(parents=True)
    section = changed(FINETUNE, **changes)
    finetune.main(modality, ingest, labels or ingest, encoder, out, **section, logs=root / "logs")
    return out


def decide(ingest: Path, labels: Path, *drops: str, **relabels: str | None) -> Path:
    """Write decisions: which ids are dropped, and which get another label."""
    manifest = store.read_table(ingest / "manifest.parquet")
    label = [relabels.get(id_, label) for id_, label in zip(manifest["id"], manifest["label"], strict=True)]
    action = ["drop" if id_ in drops else "keep" for id_ in manifest["id"]]
    labels.mkdir(parents=True)
    table = pd.DataFrame({"id": manifest["id"], "action": action, "label": label})
    store.write_table(labels / "decisions.parquet", table)
    return labels


def assert_same_files(one: Path, other: Path) -> None:
    """Two folders hold the same files with the same bytes."""
    names = sorted(str(path.relative_to(one)) for path in one.rglob("*"))
    assert names == sorted(str(path.relative_to(other)) for path in other.rglob("*"))
    for name in names:
        if (one / name).is_file():
            assert (one / name).read_bytes() == (other / name).read_bytes(), name


def command_line(monkeypatch: pytest.MonkeyPatch, stage: Any, method: Any, *words: Any) -> None:
    """Run `python -m winnow.ssl.<stage> words…` in this process."""
    monkeypatch.setattr("sys.argv", [stage.__name__, *map(str, words)])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    train.run(stage.main, method)
    torch.set_num_threads(threads)


def fork_two(stage: Any, method: Any, *words: Any) -> multiprocessing.ProcessContext:
    """Begin `python -m winnow.ssl.<stage> words…` as two processes that are told their ranks as by torchrun.

    They are forks of this one, so that they need not import all of it again.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    given = (stage, method, [stage.__name__, *map(str, words)], port)
    return multiprocessing.start_processes(_one_of_two, given, nprocs=2, join=False, start_method="fork")


def wait(processes: multiprocessing.ProcessContext) -> None:
    """Wait until all of them have ended well."""
    while not processes.join():
        pass


def _one_of_two(rank: int, stage: Any, method: Any, words: list[str], port: int) -> None:
    ranks = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    os.environ |= {name: str(value) for name, value in ranks.items()}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "test"}
    torch.set_num_threads(1)
    warnings.resetwarnings()  # as in a process of its own
    warnings.simplefilter("ignore")
    sys.argv = words
    train.run(stage.main, method)
    distributed.destroy_process_group()


def read(path: Path) -> dict[str, Any]:
    """Read a checkpoint."""
    return checkpoint.PlainCheckpoint().load_checkpoint(path)


def assert_same_run(one: Path, other: Path) -> None:
    """Weights, optimizer, schedule, history and alarms of two checkpoints agree bit for bit."""
    a, b = read(one), read(other)
    assert a["global_step"] == b["global_step"]
    assert_same(a["state_dict"], b["state_dict"])
    assert_same(a["optimizer_states"], b["optimizer_states"])
    assert_same(a["lr_schedulers"], b["lr_schedulers"])
    kept = {name: state for name, state in a["callbacks"].items() if "Checkpoint" not in name}
    assert "History" in kept
    assert_same(kept, {name: b["callbacks"][name] for name in kept})


def assert_same(one: Any, other: Any) -> None:
    """Two trees hold the same values of the same types."""
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert list(one) == list(other)
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
    else:
        assert one == other
