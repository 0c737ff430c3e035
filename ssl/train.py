"""What every training stage shares: optimizer, schedule, history, and a run through LightningCLI.

A stage hands its section of params.yaml to LightningCLI, so whatever Lightning's Trainer takes can stand
there, and `python -m winnow.ssl.pretrain fit --help` is the same thing on the command line.
"""

import logging
import math
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import lightning
import pandas as pd
import torch
from lightning.pytorch.callbacks import Callback
from timm.optim import param_groups_weight_decay
from torch import nn
from torch.utils.data import DataLoader

from winnow.data import stage
from winnow.data.batches import Batch
from winnow.ssl import command


@dataclass(frozen=True, kw_only=True)
class Optimization:
    """AdamW with a linear warm-up, a plateau and a decay.

    Attributes:
        lr: peak learning rate.
        batch_size: samples in an update, over all processes and accumulated batches, that `lr` was chosen
            for: with n of them it is lr * sqrt(n / batch_size); null: lr, whatever their number.
        warmup: fraction of the steps until the peak [0–1].
        hold: fraction of the steps at the peak before the decay begins [0–1]; pruning wants the
            rate held while masks move (Prune Once for All, section 3.2).
        decay: how it falls from there: as a `cosine`, or by the same factor in each step (`exponential`).
        floor: where it ends, as a fraction of the peak; above 0 for `exponential` [0–1].
        weight_decay: on matrices only, not on biases, norms, positions and extra tokens.
        betas: decay of the two moments.
        eps: added to the root of the second one.

    Paper: On the SDEs and Scaling Rules for Adaptive Gradient Algorithms (Malladi et al. 2022, arXiv
    2205.10287), section 5, for the root.
    """

    lr: float
    batch_size: int | None
    warmup: float
    hold: float
    decay: Literal["cosine", "exponential"]
    floor: float
    weight_decay: float
    betas: tuple[float, float]
    eps: float

    def of(self, samples: Any) -> "Optimization":
        """Give the same with the learning rate for the updates of a data module.

        Raises:
            ValueError: if the number of samples in its updates is asked for and cannot be known.
        """
        if self.batch_size is None:
            return self
        if not hasattr(samples, "update_size"):
            raise ValueError(
                f"optimization.batch_size is {self.batch_size}, and nothing tells how many samples an "
                "update has: train with a data module of winnow's, or set it to null"
            )
        lr = self.lr * math.sqrt(samples.update_size / self.batch_size)
        return replace(self, lr=lr, batch_size=samples.update_size)

    def factor(self, step: int, steps: int) -> float:
        """Give the learning rate of a step, as a fraction of the peak."""
        warmup, hold = self.warmup * steps, self.hold * steps
        if step < warmup:
            return (step + 1) / (warmup + 1)
        if step < warmup + hold:
            return 1.0
        fallen = min((step - warmup - hold) / max(steps - warmup - hold, 1), 1.0)
        if self.decay == "exponential":
            return self.floor**fallen
        return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * fallen))


def optimizers(
    module: nn.Module, optimization: Optimization, steps: int, scales: Mapping[str, float]
) -> dict[str, Any]:
    """Make the optimizer and the schedule of a run, in the form Lightning asks for.

    Args:
        module: whose parameters are optimized.
        optimization: learning rate and its schedule.
        steps: of the run.
        scales: fraction of the learning rate that a parameter of this name has, where it is not 1.
    """
    free = [name for name, _ in module.named_parameters() if name.endswith(("positions", "extra"))]
    scale = {parameter: scales.get(name, 1.0) for name, parameter in module.named_parameters()}
    groups = [
        {**group, "params": [p for p in group["params"] if scale[p] == rate], "lr": rate * optimization.lr}
        for group in param_groups_weight_decay(module, optimization.weight_decay, no_weight_decay_list=free)
        for rate in sorted({scale[p] for p in group["params"]})
    ]
    optimizer = torch.optim.AdamW(
        groups, lr=optimization.lr, betas=optimization.betas, eps=optimization.eps, fused=True
    )
    # A fused step could undo the scaling of 16-bit gradients itself, and then Lightning would not clip them.
    optimizer._step_supports_amp_scaling = False
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: optimization.factor(step, steps))
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class History(Callback):
    """Keeps what was logged, in memory, for a table of a run without clock times."""

    def __init__(self) -> None:
        self.rows: dict[int, dict[str, float]] = {}
        self._latest: dict[str, Any] = {}  # of every metric, for rows that did not measure it

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._latest.update(trainer.callback_metrics)
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return  # more batches are to come before the update
        step = trainer.global_step
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if step % every == 0 or step == trainer.max_steps:
            self._keep(trainer)

    def on_validation_end(self, trainer: lightning.Trainer, module: Any) -> None:
        if not trainer.sanity_checking:
            self._latest.update(trainer.callback_metrics)
            self._keep(trainer)

    def _keep(self, trainer: lightning.Trainer) -> None:
        row: dict[str, float] = {name: float(value) for name, value in self._latest.items()}
        samples = trainer.datamodule  # type: ignore[attr-defined]
        if hasattr(samples, "update_size"):  # what the run has taken, whatever the machine
            row["samples"] = trainer.global_step * samples.update_size
        self.rows[trainer.global_step] = row

    def state_dict(self) -> dict[str, Any]:
        latest = {name: float(value) for name, value in self._latest.items()}
        return {"rows": self.rows, "latest": latest}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows, self._latest = state_dict["rows"], state_dict["latest"]

    def part(self, name: str) -> "History":
        """Give what was logged of one of several, under names as if it were alone."""
        part = History()
        for step, row in self.rows.items():
            split = {key: key.split("/") for key in row}
            own = {
                key: [word for word in words if word != name] for key, words in split.items() if name in words
            }
            if own:
                part.rows[step] = {"/".join(words): row[key] for key, words in own.items()}
        return part

    def write(self, path: Path) -> None:
        """Write one row per logged step, as CSV for `dvc plots`."""
        table = pd.DataFrame.from_dict(self.rows, orient="index").sort_index()
        table.rename_axis("step").to_csv(path, float_format="%.6g")


Method = TypeVar("Method", bound=command.Trainable)


def fit(
    method: type[Method],
    *,
    model: dict[str, Any],
    data: dict[str, Any],
    trainer: dict[str, Any],
    threads: int,
    logs: Path,
    callbacks: tuple[Callback, ...] = (),
) -> tuple[Method, History]:
    """Train a method through LightningCLI and give it back, in evaluation mode, with its history.

    Args:
        method: its arguments are checked against `model`.
        model: its section, less `modality`, `modalities`, `seed`, and `classes` or `targets`, which the data
            module gives.
        data: arguments of the method's data module.
        trainer: arguments of Lightning's `Trainer`.
        threads: of torch. The order of floating-point sums depends on it, so results do too.
        logs: folder for logs and checkpoints; what an earlier run left there is not read.
        callbacks: what a stage adds.
    """
    torch.set_num_threads(threads)
    settle()
    run_of = command.companions(logs)
    history = History()
    run_of |= trainer | {"callbacks": run_of["callbacks"] + trainer.get("callbacks", [])}
    cli = command.Cli(
        method,
        defaults={},
        callbacks=(*callbacks, history),
        args={"model": model, "data": data, "trainer": run_of, "seed_everything": data["seed"]},
        save_config_callback=None,
        run=False,
    )
    if cli.trainer.is_global_zero:
        logs.mkdir(parents=True, exist_ok=True)
        saved = cli.parser.dump(cli.config, skip_none=False)
        (logs / "config.yaml").write_text(saved, encoding="utf-8")
    cli.trainer.fit(cli.model, datamodule=cli.datamodule)
    return cli.model.eval(), history


def settle() -> None:
    """Make runs repeatable and their terminal readable."""
    torch.use_deterministic_algorithms(True)
    # Advertising for a service, at every start.
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    # Lightning's own use of torch, which its user can do nothing about.
    warnings.filterwarnings("ignore", ".*LeafSpec.*", module="lightning")
    warnings.filterwarnings("ignore", ".*exists and is not empty", module="lightning")
    # A teacher is in evaluation mode for good.
    warnings.filterwarnings("ignore", ".*eval mode at the start of training", module="lightning")
    # Samples to predict may have no label: a head for no class, until the checkpoint names them.
    warnings.filterwarnings("ignore", "Initializing zero-element tensors", module="torch")
    # A length is right with several workers too: each knows its share.
    warnings.filterwarnings("ignore", ".*`IterableDataset` has `__len__` defined", module="lightning")
    # A stage has read the command line, and leaves it for Lightning to start further processes with.
    warnings.filterwarnings("ignore", ".*args parameter is intended to run from within Python")
    # Batches are cut from tensors in memory; workers would only copy them.
    warnings.filterwarnings("ignore", ".*does not have many workers", module="lightning")


def briefly(
    method: lightning.LightningModule, batches: list[Batch], *, gradient_clip: float, accelerator: str
) -> None:
    """Train a method on these batches, once each, and do nothing else: for runs that are only compared.

    Args:
        method: is trained in place.
        batches: one for each step.
        gradient_clip: norm above which gradients are cut.
        accelerator: Lightning's word for the device.
    """
    settle()
    trainer = lightning.Trainer(
        max_steps=len(batches),
        max_epochs=1,
        gradient_clip_val=gradient_clip,
        accelerator=accelerator,
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*have no `val_dataloader`")  # nothing is chosen by validation
        trainer.fit(method, DataLoader(batches, batch_size=None))  # type: ignore[arg-type]


def command_line(method: type[command.Trainable]) -> None:
    """Train, score or predict by the words of LightningCLI."""
    settle()
    command.Cli(
        method,
        defaults=command.companions(Path("logs") / method.__name__.lower()),
        callbacks=(History(),),
        save_config_kwargs={"overwrite": True},
    )


def run(main: Callable[..., None], method: type[command.Trainable]) -> None:
    """Start a training stage: as LightningCLI if the first word is one of its, else as a stage."""
    if sys.argv[1:2] and sys.argv[1] in command.WORDS:
        command_line(method)
    else:
        stage.run(main)
