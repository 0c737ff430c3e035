import logging
import math
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import lightning
import pandas as pd
import pytest
import runs
import tiny
import torch
import yaml
from conftest import KINDS, Kind, run_ingest
from lightning.pytorch.callbacks import LearningRateFinder
from lightning.pytorch.tuner import Tuner
from runs import assert_same_files, assert_same_run, command_line, run_finetune, run_pretrain
from tiny_trunk import OPTIMIZATION

from winnow.data.modality import Modality, build
from winnow.ssl import finetune, pretrain
from winnow.ssl import model as models
from winnow.ssl.classification import Classification
from winnow.ssl.data2vec import Data2Vec
from winnow.ssl.train import History, Optimization, optimizers

VISION: Kind = KINDS[0]


@pytest.fixture(scope="session")
def modality() -> Modality:
    return build(VISION.section)


@pytest.fixture(scope="session")
def ingested(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("train")
    return run_ingest(VISION, VISION.write(root / "raw"), root / "ingest")


@pytest.fixture(autouse=True)
def no_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["stage"])


# --- the schedule -------------------------------------------------------------------------------


def schedule(**changes: Any) -> Optimization:
    settings: dict[str, Any] = {"lr": 0.1, "hold": 0.2, "weight_decay": 0.5, "betas": (0.9, 0.99)}
    return replace(OPTIMIZATION, **(settings | changes))


def test_rises_linearly_holds_and_falls_along_a_cosine_to_zero() -> None:
    rate = schedule()
    assert [rate.factor(step, 100) for step in (0, 4, 9)] == [1 / 11, 5 / 11, 10 / 11]
    assert {rate.factor(step, 100) for step in range(10, 30)} == {1.0}
    for step in range(30, 100):
        wanted = 0.5 * (1 + math.cos(math.pi * (step - 30) / 70))
        assert rate.factor(step, 100) == pytest.approx(wanted)
    assert rate.factor(100, 100) == pytest.approx(0.0)
    assert rate.factor(105, 100) == pytest.approx(0.0)


def test_falls_by_the_same_factor_in_each_step_down_to_its_floor() -> None:
    rate = schedule(warmup=0.03, hold=0.9, decay="exponential", floor=0.01)  # data2vec's three stages
    falling = [rate.factor(step, 1000) for step in range(930, 1001)]
    assert falling[0] == 1.0 and falling[-1] == pytest.approx(0.01)
    for one, other in pairwise(falling):
        assert other / one == pytest.approx(0.01 ** (1 / 70))


def test_a_cosine_ends_at_its_floor() -> None:
    rate = schedule(warmup=0.0, hold=0.0, floor=0.1)
    assert rate.factor(5, 10) == pytest.approx(0.55)
    assert rate.factor(10, 10) == pytest.approx(0.1)


def test_without_warmup_and_hold_the_first_step_is_at_the_peak() -> None:
    assert schedule(warmup=0.0, hold=0.0).factor(0, 10) == 1.0


@pytest.mark.parametrize(("warmup", "hold"), [(1.0, 0.0), (0.0, 1.0), (0.5, 0.5)])
def test_a_run_without_a_fall_stays_within_the_peak(warmup: float, hold: float) -> None:
    rate = schedule(warmup=warmup, hold=hold)
    assert all(0 < rate.factor(step, 10) <= 1 for step in range(10))


def test_the_optimizer_follows_the_schedule_and_spares_biases_and_norms() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.LayerNorm(3))
    made = optimizers(module, schedule(), 10, {})
    optimizer, rate = made["optimizer"], made["lr_scheduler"]["scheduler"]
    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert decay == {id(p): 0.5 if p.ndim > 1 else 0.0 for p in module.parameters()}
    for step in range(10):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * schedule().factor(step, 10))
        optimizer.step()
        rate.step()


def test_the_rate_goes_with_the_root_of_the_samples_in_an_update(
    modality: Modality, ingested: Path, tmp_path: Path
) -> None:
    """However they come together: in one batch, or accumulated."""

    def run(name: str, **changes: Any) -> Path:
        (tmp_path / name).mkdir()
        settled = {f"model__optimization__{key}": value for key, value in changes.pop("rate").items()}
        return run_pretrain(modality, ingested, tmp_path / name, **settled, **changes)

    lr = runs.OPTIMIZATION["lr"]
    assert_same_files(
        run("eight", rate={"batch_size": 2}), run("twice the rate", rate={"lr": lr * 2, "batch_size": None})
    )
    four = {"data__batch_size": 2, "trainer__accumulate_grad_batches": 4}
    assert_same_files(
        run("four", rate={"batch_size": 32}, **four),
        run("half the rate", rate={"lr": lr / 2, "batch_size": None}, **four),
    )


def test_a_rate_for_a_number_of_samples_needs_to_know_it() -> None:
    assert schedule().of(None) == schedule()
    with pytest.raises(
        ValueError, match=r"optimization\.batch_size is 8, and nothing tells how many samples"
    ):
        schedule(batch_size=8).of(None)


# --- Lightning's finder of a learning rate and its profilers ------------------------------------

finder = {"num_training_steps": 30, "min_lr": 1e-6, "max_lr": 0.5}


class Rates(lightning.Callback):
    """Keeps the learning rates of every step."""

    def __init__(self) -> None:
        self.seen: list[list[float]] = []

    def on_train_batch_start(self, trainer: lightning.Trainer, *rest: Any) -> None:
        self.seen.append([group["lr"] for group in trainer.optimizers[0].param_groups])


@pytest.fixture
def method(tmp_path: Path) -> Classification:
    models.save(tiny.classifier().encoder, tmp_path)
    return tiny.classification(tmp_path, layer_decay=0.5, freeze=0.3)


def assert_follow(seen: list[list[float]], method: Classification, steps: int) -> None:
    """Every step's rates are those of the schedule, at the peak that was found."""
    assert method.lr != tiny.OPTIMIZATION.lr
    depths = {1.0, 0.5, 0.25, 0.125}
    assert len(seen) == steps
    for step, rates in enumerate(seen):
        top = method.lr * tiny.OPTIMIZATION.factor(step, steps)
        assert {round(rate / top, 6) for rate in rates} == depths


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
def test_the_tuner_finds_a_learning_rate_that_the_next_fit_has(
    method: Classification, tmp_path: Path
) -> None:
    start = {name: weight.clone() for name, weight in method.state_dict().items()}
    rates = Rates()
    trainer = tiny.trainer(12, rates)
    # A run that is longer than the test of rates, so that it need not begin anew.
    loaders = tiny.batches(60), tiny.batches(1)
    found = Tuner(trainer).lr_find(method, *loaders, num_training=30, min_lr=1e-6, max_lr=0.5)
    assert found is not None and method.lr == found.suggestion()
    assert all(torch.equal(weight, start[name]) for name, weight in method.state_dict().items())
    rates.seen.clear()
    trainer.fit(method, *loaders)
    assert_follow(rates.seen, method, 12)


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
def test_the_callback_finds_a_learning_rate_that_its_own_fit_has_from_the_first_step(
    method: Classification,
) -> None:
    rates = Rates()
    tiny.trainer(12, LearningRateFinder(**finder), rates).fit(method, tiny.batches(60), tiny.batches(1))
    assert_follow(rates.seen, method, 12)


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_a_learning_rate_is_found_on_the_command_line_and_kept_by_checkpoints(
    whole: Path, whole_finetune: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    root, module, kind = {
        "pretrain": (whole, pretrain, Data2Vec),
        "finetune": (whole_finetune, finetune, Classification),
    }[stage]
    words = ["fit", *copied(root, tmp_path, whole), "--trainer.callbacks+", "LearningRateFinder"]
    words += [word for name, value in finder.items() for word in (f"--trainer.callbacks.{name}", value)]
    monkeypatch.chdir(tmp_path)
    command_line(monkeypatch, module, kind, *words)
    state = runs.read(tmp_path / "logs/checkpoints/last.ckpt")
    (schedule_,) = state["lr_schedulers"]
    (peak,) = set(schedule_["base_lrs"])
    assert peak != runs.OPTIMIZATION["lr"] and finder["min_lr"] <= peak <= finder["max_lr"]
    assert state["global_step"] == 6
    rows = state["callbacks"]["History"]["rows"]
    assert "val/loss" not in rows[1] and "val/loss" in rows[3]  # nothing of the search
    assert list(tmp_path.glob(".lr_find*")) == []


@pytest.mark.parametrize(("profiler", "measured"), [("simple", "run_training_batch"), ("pytorch", "aten::")])
# What torch's tells of runs as short as this one, and, once in a process, of its cycles.
@pytest.mark.filterwarnings("ignore:The PyTorch Profiler default schedule will be overridden")
@pytest.mark.filterwarnings("ignore:Warning. Profiler clears events at the end of each cycle")
def test_lightnings_profilers_report_what_takes_time(
    whole_finetune: Path,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    profiler: str,
    measured: str,
) -> None:
    words = [*copied(whole_finetune, tmp_path, whole), "--trainer.profiler", profiler]
    monkeypatch.chdir(tmp_path)
    with caplog.at_level(logging.INFO):
        command_line(monkeypatch, finetune, Classification, "fit", *words)
    (report,) = [text for text in caplog.messages if "Profiler Report" in text]
    assert measured in report


def copied(run: Path, root: Path, encoder: Path) -> list[Any]:
    """Copy a run's config to another folder, for its logs to go there."""
    config = (run / "logs/config.yaml").read_text().replace(str(run), str(root))
    config = config.replace(f"encoder: {root}", f"encoder: {encoder}")
    (root / "config.yaml").write_text(config)
    return ["--config", root / "config.yaml"]


# --- a stage's run ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(modality: Modality, ingested: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretraining run from start to end, with a checkpoint of every step."""
    root = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["pretrain"])
        run_pretrain(modality, ingested, root, trainer__callbacks=checkpoints(root))
    return root


@pytest.fixture(scope="module")
def whole_finetune(
    modality: Modality, ingested: Path, whole: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    root = tmp_path_factory.mktemp("whole-finetune")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["finetune"])
        callbacks = checkpoints(root)
        run_finetune(modality, ingested, whole / "pretrain", root, trainer__callbacks=callbacks)
    return root


def checkpoints(root: Path) -> list[dict[str, Any]]:
    """Checkpoints of every step, and of every validation, beside the stage's own."""
    when = {"step": {"every_n_train_steps": 1}, "validation": {"monitor": "val/loss"}}
    return [
        {
            "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
            "init_args": {
                "dirpath": str(root / "steps"),
                "filename": f"{name}={{step}}",
                "auto_insert_metric_name": False,
                "save_top_k": -1,
                **arguments,
            },
        }
        for name, arguments in when.items()
    ]


def test_the_history_has_a_row_for_every_logged_step(whole: Path) -> None:
    history = pd.read_csv(whole / "pretrain/history.csv", index_col="step")
    assert list(history.index) == [1, 2, 3, 4, 5, 6]
    assert history["loss"].notna().all()
    assert history["val/loss"].isna().tolist() == [True, True, False, False, False, False]


def test_the_last_row_holds_the_last_diagnosis(whole: Path) -> None:
    """Not the one before: the history has its turn after the monitor."""
    rows = runs.read(whole / "logs/checkpoints/last.ckpt")["callbacks"]["History"]["rows"]
    assert list(rows) == [1, 2, 3, 4, 5, 6]
    assert rows[5]["embedding_std"] == rows[4]["embedding_std"]
    assert rows[6]["embedding_std"] != rows[5]["embedding_std"]


def test_logs_for_excel_and_tensorboard(whole: Path) -> None:
    table = pd.read_csv(whole / "logs/metrics.csv")
    assert len(table["loss"].dropna()) == 6
    (events,) = (whole / "logs").glob("events.out.tfevents.*")
    assert b"val/loss" in events.read_bytes()


@pytest.mark.parametrize("part", ["model", "data", "trainer", "monitor"])
def test_an_unknown_key_is_an_error_that_names_it(
    modality: Modality,
    ingested: Path,
    tmp_path: Path,
    part: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises((SystemExit, Exception)) as caught:
        run_pretrain(modality, ingested, tmp_path, **{f"{part}__lightspeed": 1})
    assert "lightspeed" in f"{caught.value} {capsys.readouterr().err}"


def test_a_missing_key_is_an_error_that_names_it(
    modality: Modality, ingested: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises((SystemExit, Exception)) as caught:
        run_pretrain(modality, ingested, tmp_path, model__ema={"start": 0.9})
    assert re.search("ema.*(end|ramp|share)", f"{caught.value} {capsys.readouterr().err}", re.S)


# --- resuming -----------------------------------------------------------------------------------


@pytest.mark.parametrize("point", ["step=1", "step=2", "validation=3", "step=5"])
def test_a_resumed_pretraining_ends_where_the_whole_run_ended(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    resume(whole, tmp_path, monkeypatch, pretrain, Data2Vec, whole / f"steps/{point}.ckpt")
    assert_same_run(whole / "steps/step=6.ckpt", tmp_path / "steps/step=6.ckpt")
    assert_same_run(whole / "logs/checkpoints/last.ckpt", tmp_path / "logs/checkpoints/last.ckpt")
    steps = sorted(path.name for path in (tmp_path / "steps").glob("step=*"))
    assert steps == [f"step={i}.ckpt" for i in range(int(point[-1]) + 1, 7)]


def test_resuming_before_a_validation_loses_the_validation_and_no_step(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning's way: a checkpoint of step 3 is taken up at step 4."""
    resume(whole, tmp_path, monkeypatch, pretrain, Data2Vec, whole / "steps/step=3.ckpt")
    one, other = (runs.read(root / "steps/step=6.ckpt") for root in (whole, tmp_path))
    runs.assert_same(one["state_dict"], other["state_dict"])
    losses = [
        [row["loss"] for row in state["callbacks"]["History"]["rows"].values()] for state in (one, other)
    ]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("point", ["step=2", "validation=3"])
def test_a_resumed_finetuning_ends_where_the_whole_run_ended(
    whole_finetune: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    start = whole_finetune / f"steps/{point}.ckpt"
    resume(whole_finetune, tmp_path, monkeypatch, finetune, Classification, start)
    assert_same_run(whole_finetune / "steps/step=6.ckpt", tmp_path / "steps/step=6.ckpt")


def test_a_resumed_finetuning_mixes_and_unfreezes_as_the_whole_run_did(
    modality: Modality, ingested: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mixup = {"mixup_alpha": 0.8, "cutmix_alpha": 1.0, "prob": 0.9, "switch_prob": 0.5}
    options = {"model__mixup": mixup, "model__layer_decay": 0.7, "model__freeze": 0.5}
    root = tmp_path / "whole"
    callbacks = checkpoints(root)
    run_finetune(modality, ingested, whole / "pretrain", root, trainer__callbacks=callbacks, **options)
    for point in ("step=2", "step=4"):  # the head alone, and all of it
        again = tmp_path / point
        again.mkdir()
        resume(root, again, monkeypatch, finetune, Classification, root / f"steps/{point}.ckpt")
        assert_same_run(root / "steps/step=6.ckpt", again / "steps/step=6.ckpt")


def test_a_run_that_streams_and_accumulates_is_resumed_in_the_middle_of_an_epoch(
    modality: Modality, ingested: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tmp_path / "whole"
    settings = {
        "data__batch_size": 4,
        "data__streaming": {"workers": 2, "buffer": 8},
        "trainer__accumulate_grad_batches": 3,
        "trainer__val_check_interval": 6,
    }
    run_pretrain(modality, ingested, whole, **settings, trainer__callbacks=checkpoints(whole))
    for point in ("step=1", "validation=2", "step=5"):
        root = tmp_path / point
        root.mkdir()
        resume(whole, root, monkeypatch, pretrain, Data2Vec, whole / f"steps/{point}.ckpt")
        assert_same_run(whole / "logs/checkpoints/last.ckpt", root / "logs/checkpoints/last.ckpt")


def resume(whole: Path, root: Path, patch: pytest.MonkeyPatch, stage: Any, method: Any, start: Path) -> None:
    """Take a run up from a checkpoint, on the command line; its logs go to another folder."""
    config = copied(whole, root, whole)  # what the run reads stays where it was
    patch.chdir(root)
    with warnings.catch_warnings():
        # True, and meant: the logs of the run that is taken up stay as they are.
        warnings.filterwarnings("ignore", "The dirpath has changed")
        warnings.filterwarnings("error", "You're resuming from a checkpoint")
        warnings.filterwarnings("error", "Be aware that when using `ckpt_path`")
        command_line(patch, stage, method, "fit", *config, "--ckpt_path", start)


def test_a_killed_run_is_taken_up_where_its_last_checkpoint_left_it(
    modality: Modality, ingested: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, root = 60, tmp_path / "whole"
    settings = {
        "trainer__max_steps": steps,
        "trainer__val_check_interval": 10,
        "trainer__log_every_n_steps": 10,
        "model__masks": 1,
        "monitor__every_steps": 20,
    }
    run_pretrain(modality, ingested, root, **settings)

    killed = tmp_path / "killed"
    killed.mkdir()
    config = (root / "logs/config.yaml").read_text().replace(str(root), str(killed))
    (killed / "config.yaml").write_text(config)
    words = [sys.executable, "-m", "winnow.ssl.pretrain", "fit", "--config", "config.yaml"]
    last = killed / "logs/checkpoints/last.ckpt"
    with (killed / "output").open("w") as output:
        # As many threads as the whole run: the order of floating-point sums depends on it.
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(words, cwd=killed, env=env, stdout=output, stderr=output)
        deadline = time.monotonic() + 60
        while not last.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, (killed / "output").read_text()
    stopped_at = runs.read(last)["global_step"]
    assert 10 <= stopped_at < steps

    monkeypatch.chdir(killed)
    words = ["fit", "--config", "config.yaml", "--ckpt_path", last]
    command_line(monkeypatch, pretrain, Data2Vec, *words)
    assert_same_run(root / "logs/checkpoints/last.ckpt", last)


# --- the command line ---------------------------------------------------------------------------


def test_help_describes_every_argument(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        command_line(monkeypatch, pretrain, Data2Vec, "fit", "--help")
    assert caught.value.code == 0
    text = capsys.readouterr().out
    names = (
        "model.optimization.lr",
        "model.masking",
        "model.predictor",
        "data.modality",
        "trainer.max_steps",
    )
    for name in names:
        assert f"--{name}" in text
    assert "views of a sample for each pass of the teacher" in text
    assert "min_aspect" in text and "out_ratio" in text  # of what a mask and a predictor can be
    assert "--model.seed" not in text  # linked: it is given once, to the data


def test_the_printed_config_runs_unchanged_and_is_printed_the_same(
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    saved = whole / "logs/config.yaml"
    text = saved.read_text()
    with pytest.raises(SystemExit) as caught:
        command_line(monkeypatch, pretrain, Data2Vec, "fit", "--config", saved, "--print_config")
    assert caught.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed.pop("ckpt_path", None) is None
    for key in ("weights_only",):
        printed.pop(key, None)
    assert printed == yaml.safe_load(text)


def test_the_saved_config_repeats_the_run(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = (whole / "logs/config.yaml").read_text().replace(str(whole), str(tmp_path))
    (tmp_path / "config.yaml").write_text(config)
    monkeypatch.chdir(tmp_path)
    command_line(monkeypatch, pretrain, Data2Vec, "fit", "--config", "config.yaml")
    assert_same_run(whole / "logs/checkpoints/last.ckpt", tmp_path / "logs/checkpoints/last.ckpt")
    assert len(pd.read_csv(tmp_path / "logs/metrics.csv")["loss"].dropna()) == 6
    assert list((tmp_path / "logs").glob("events.out.tfevents.*"))


def test_a_run_from_words_alone_in_a_process_of_its_own(
    modality: Modality, ingested: Path, tmp_path: Path
) -> None:
    """No params.yaml, no config: overrides, logs and progress bar as Lightning users know them."""
    settings = runs.changed(runs.PRETRAIN, model__masking__block=[3, 3], trainer__max_steps=4, model__masks=1)
    words = ["--data.ingest", ingested, "--data.labels", ingested, "--data.labelled", "false"]
    words += ["--data.modality", VISION.section["class_path"]]
    for name, value in VISION.section["init_args"].items():
        words += [f"--data.modality.{name}", value]
    for part in ("model", "data", "trainer"):
        words += [word for pair in flat(part, settings[part]) for word in pair]
    words += ["--model.optimization.lr", "0.01"]
    output = subprocess.run(
        [sys.executable, "-m", "winnow.ssl.pretrain", "fit", *map(str, words)],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert output.returncode == 0, output.stderr
    assert "Epoch 0/0" in output.stdout and "loss:" in output.stdout
    assert "Warning" not in re.sub(r"\S*Deprecat\S*", "", output.stderr)
    logs = tmp_path / "logs/data2vec"
    config = yaml.safe_load((logs / "config.yaml").read_text())
    assert config["model"]["optimization"]["lr"] == 0.01
    kinds = [part["class_path"].rpartition(".")[2] for part in config["trainer"]["callbacks"]]
    assert kinds == ["RichProgressBar", "ModelCheckpoint"]
    assert len(pd.read_csv(logs / "metrics.csv")["loss"].dropna()) == 4
    assert list(logs.glob("events.out.tfevents.*"))
    assert runs.read(logs / "checkpoints/last.ckpt")["global_step"] == 3


def flat(prefix: str, section: dict[str, Any]) -> list[tuple[str, str]]:
    found = []
    for name, value in section.items():
        if isinstance(value, dict):
            found += flat(f"{prefix}.{name}", value)
        else:
            found.append((f"--{prefix}.{name}", "null" if value is None else str(value).lower()))
    return found


def test_a_history_comes_back_from_its_state(tmp_path: Path) -> None:
    history, again = History(), History()
    history.rows = {2: {"loss": 0.5, "val/loss": 1.0}, 1: {"loss": 1.5}}
    again.load_state_dict(history.state_dict())
    again.write(tmp_path / "history.csv")
    assert (tmp_path / "history.csv").read_text() == "step,loss,val/loss\n1,1.5,\n2,0.5,1\n"
