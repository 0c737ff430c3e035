"""Lightning callbacks for sparse training: the one prunes step by step, the other keeps zeros zero."""

from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from torch import nn

from winnow.compress.allocation import Allocation, layerwise
from winnow.compress.patterns import UNSTRUCTURED, Pattern
from winnow.compress.schedules import Schedule, Span
from winnow.compress.scores import Score
from winnow.compress.sparsity import Choice, Keep, Pruner, measured_sparsity, require_zeros, zero


class PatternLock(Callback):
    """Keeps the zeros that a network comes with through a training run, and lets no other be saved.

    Momentum and weight decay move what has no gradient, so zeros are set again after every step.

    Args:
        network: name of the LightningModule's attribute that is sparse; "" is the module itself.
        choose: which of its weights; see `winnow.compress.sparsity.prunable`.
        name: under which their sparsity is logged; of several in one run, each has its own.
    """

    def __init__(self, network: str = "", choose: Choice | None = None, name: str = "sparsity") -> None:
        self.network, self.name = network, name
        self.pruner = Pruner(choose=choose)

    @property
    def state_key(self) -> str:
        return self._generate_state_key(name=self.name)

    @property
    def keep(self) -> Keep:
        """Give the masks; True = kept."""
        return self.pruner.keep

    def of(self, module: lightning.LightningModule) -> nn.Module:
        """Give the sparse network."""
        return module.get_submodule(self.network)

    def on_fit_start(self, trainer: lightning.Trainer, module: Any) -> None:
        self.pruner.start(self.of(module))

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        zero(self.of(module), self.keep)
        module.log(self.name, measured_sparsity(self.of(module), self.pruner.choose))

    def on_save_checkpoint(self, trainer: lightning.Trainer, module: Any, checkpoint: dict[str, Any]) -> None:
        require_zeros(self.of(module), self.keep)

    def state_dict(self) -> dict[str, Any]:
        return self.pruner.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.pruner.load_state_dict(state_dict)


class Pruning(PatternLock):
    """Prunes while a network trains, and ends exactly at the sparsity that is asked for.

    Args:
        sparsity: fraction of zeros in what is pruned, in the end [0–1).
        schedule: when, as fractions of the run.
        pattern: what is pruned together.
        score: what is kept; by default magnitude.
        allocate: which weight bears how much.
        network: name of the LightningModule's attribute that is pruned; "" is the module itself.
        choose: which of its weights; see `winnow.compress.sparsity.prunable`.
        name: under which their sparsity is logged; of several in one run, each has its own.

    Raises:
        ValueError: if the pattern does not have this sparsity, or does not fit a weight.
    """

    def __init__(
        self,
        sparsity: float,
        schedule: Span,
        pattern: Pattern = UNSTRUCTURED,
        score: Score | None = None,
        allocate: Allocation = layerwise,
        network: str = "",
        choose: Choice | None = None,
        name: str = "sparsity",
    ) -> None:
        super().__init__(network, name=name)
        pattern.require_sparsity(sparsity)
        self._step = 0
        self.sparsity, self.schedule = sparsity, schedule
        self.pruner = Pruner(pattern, score, allocate, choose)

    def over(self, trainer: lightning.Trainer) -> Schedule:
        """Give the schedule in steps of this run."""
        return self.schedule.over(int(trainer.estimated_stepping_batches), self.sparsity)

    def on_before_optimizer_step(
        self, trainer: lightning.Trainer, module: Any, optimizer: torch.optim.Optimizer
    ) -> None:
        if trainer.global_step < self.over(trainer).last:  # what comes later is judged by nobody
            self.pruner.watch(self.of(module))

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # A batch whose gradients are only accumulated is no step.
        if trainer.global_step > self._step:
            self._step = trainer.global_step
            self.pruner.step(self.of(module), self._step, self.over(trainer), trainer.optimizers)
        super().on_train_batch_end(trainer, module, outputs, batch, batch_idx)
