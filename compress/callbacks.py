"""Callbacks for training a sparse network: the one prunes it step by step, the other keeps its zeros zero."""

from typing import Any

import lightning
import torch
from jaxtyping import Bool
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from winnow.compress.sparsity import Pattern, Schedule, lock, magnitude_keep, measured_sparsity, prunable


class PatternLock(Callback):
    """Keeps the zeros that a model comes with through a training run.

    Momentum and weight decay move what has no gradient, so zeros are set again after every step.
    The network is the LightningModule's `student`.
    """

    def __init__(self) -> None:
        self.keep: dict[str, Bool[Tensor, "row column"]] = {}

    def on_fit_start(self, trainer: lightning.Trainer, module: Any) -> None:
        if not self.keep:
            self.keep = lock(module.student)
        self.keep = {name: keep.to(module.device) for name, keep in self.keep.items()}

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.apply(module.student)
        module.log("sparsity", measured_sparsity(module.student))

    @torch.no_grad()
    def apply(self, model: nn.Module) -> None:
        """Set every pruned weight to zero."""
        for name, weight in prunable(model).items():
            weight.masked_fill_(~self.keep[name], 0)

    def state_dict(self) -> dict[str, Any]:
        return {"keep": self.keep}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.keep = state_dict["keep"]


class Pruning(PatternLock):
    """Prunes by magnitude while a model trains, and ends exactly at the pattern's sparsity.

    Args:
        pattern: what is pruned together, and how much of it.
        schedule: when.
    """

    def __init__(self, pattern: Pattern, schedule: Schedule) -> None:
        super().__init__()
        self.pattern, self.schedule = pattern, schedule

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        decay = self.schedule.over(trainer.max_steps, self.pattern.sparsity)
        # The last refresh is forced: `end` need not be a multiple of `frequency`.
        if decay.should_prune(step) or step == decay.end:
            self.refresh(module.student, decay.sparsity(step), trainer.optimizers)
        super().on_train_batch_end(trainer, module, outputs, batch, batch_idx)

    @torch.no_grad()
    def refresh(self, model: nn.Module, sparsity: float, optimizers: list[torch.optim.Optimizer]) -> None:
        """Choose the kept weights anew, and make the optimizer forget the pruned ones."""
        for name, weight in prunable(model).items():
            keep = magnitude_keep(weight, sparsity, self.pattern.block, self.pattern.pooling)
            self.keep[name] = keep
            for optimizer in optimizers:
                for moment in optimizer.state.get(weight, {}).values():
                    if isinstance(moment, Tensor) and moment.shape == weight.shape:
                        moment.masked_fill_(~keep, 0)
