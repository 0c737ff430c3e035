"""Is the representation collapsing? Four numbers on a fixed batch, and an alarm that holds its breath.

Loss and target variance look healthy while targets become a function of the position alone; only
`sample_share` and `embedding_std` see that. All numbers are of held-out samples that training never sees.
"""

import logging
from typing import Any, Literal

import lightning
import torch
from jaxtyping import Bool, Float
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from winnow.data import alert, stage

_log = logging.getLogger(__name__)


class Collapsed(RuntimeError):
    """The targets or the embeddings of a pretraining run have lost what tells samples apart."""


class Diverged(RuntimeError):
    """The loss of a run is no longer a finite number."""


def token_std(x: Float[Tensor, "batch token dim"], valid: Bool[Tensor, "batch token"]) -> float:
    """Give the mean over channels of the standard deviation over all valid tokens."""
    return float(x[valid].std(0).mean())


def sample_share(x: Float[Tensor, "batch token dim"], valid: Bool[Tensor, "batch token"]) -> float:
    """Give the share of the variance that differs between samples at the same place [0–1].

    0 means that the targets depend on the position alone: positional collapse.
    """
    weight = valid.to(x.dtype)[..., None]
    count = weight.sum(0)
    here = (x * weight).sum(0) / count.clamp(min=1)  # mean of a place over samples
    within = ((x - here).square() * weight).sum((0, 1)) / weight.sum()
    total = x[valid].var(0, correction=0)
    return float(within.mean() / total.mean().clamp(min=1e-12))


def embedding_std(embedding: Float[Tensor, "batch dim"]) -> float:
    """Give the mean over channels of the standard deviation between samples."""
    return float(embedding.std(0).mean())


def effective_rank(embedding: Float[Tensor, "batch dim"]) -> float:
    """Give the exponential of the entropy of the normalised singular values.

    Paper: The effective rank (Roy and Vetterli 2007), section 2.
    """
    values = torch.linalg.svdvals(embedding - embedding.mean(0))
    share = values / values.sum().clamp(min=1e-12)
    return float(torch.special.entr(share).sum().exp())


class CollapseMonitor(Callback):
    """Diagnoses every `every_steps` and raises the alarm when it stays bad.

    Args:
        every_steps: optimizer steps between two diagnoses.
        samples: size of the fixed held-out batch; below 64 the numbers are noise.
        grace: fraction of the run without an alarm [0–1].
        patience: bad diagnoses in a row that make an alarm; transients are common and harmless.
        min_target_std: floor of `target_std`.
        min_sample_share: floor of `sample_share`.
        min_embedding_std: floor of `embedding_std`, as a fraction of its value before training.
        action: `warn` goes on and tells the owner, `stop` ends the run.
    """

    def __init__(
        self,
        every_steps: int,
        samples: int,
        grace: float,
        patience: int,
        min_target_std: float,
        min_sample_share: float,
        min_embedding_std: float,
        action: Literal["warn", "stop"],
    ) -> None:
        self.every_steps, self.samples = every_steps, samples
        self.grace, self.patience, self.action = grace, patience, action
        self.floors = {
            "target_std": min_target_std,
            "sample_share": min_sample_share,
            "embedding_std": min_embedding_std,
        }
        self.first: dict[str, float] = {}
        self.bad, self.alarmed = 0, False
        self._held_out: Tensor | None = None

    prefix = ""  # of the names of what is logged

    def subject(self, trainer: lightning.Trainer, module: Any) -> tuple[Any, Any]:
        """Give the method and the data module that are watched."""
        return module, trainer.datamodule  # type: ignore[attr-defined]

    def on_train_start(self, trainer: lightning.Trainer, module: Any) -> None:
        if not self.first:
            self.first = self._diagnose(trainer, module)
            module.log_dict(self._named(self.first), sync_dist=True)  # equal everywhere

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss = outputs["loss"]
        if not torch.isfinite(loss):
            raise Diverged(
                f"loss is {float(loss)} at step {trainer.global_step}: lower optimization.lr, "
                "lengthen optimization.warmup, or set trainer.gradient_clip_val"
            )
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return  # more batches are to come before the update
        if trainer.global_step % self.every_steps and trainer.global_step != trainer.max_steps:
            return
        seen = self._diagnose(trainer, module)
        module.log_dict(self._named(seen))
        if trainer.global_step >= self.grace * trainer.max_steps:
            self.judge(seen, trainer.global_step)

    def judge(self, seen: dict[str, float], step: int) -> None:
        """Count a diagnosis, and act when `patience` of them in a row are below a floor.

        Raises:
            Collapsed: if `action` is `stop`.
        """
        floors = {**self.floors, "embedding_std": self._embedding_floor()}
        low = {name: seen[name] for name, floor in floors.items() if seen[name] < floor}
        self.bad = self.bad + 1 if low else 0
        if self.bad < self.patience or self.alarmed:
            return
        facts = ", ".join(f"{name} {seen[name]:.3g} < {floors[name]:.3g}" for name in low)
        news = (
            f"{self.prefix}representations collapse at step {step}: {facts}, {self.bad} times in a row. "
            "Raise ema.start, lower optimization.lr, lengthen optimization.warmup, or give it more "
            "steps to come out again; where sample_share is low, targets are a function of the "
            "position alone: raise ema.start first"
        )
        if self.action == "stop":
            raise Collapsed(news)
        self.alarmed = True
        if stage.first_process():  # all see the same
            _log.warning(news)
            alert.send("winnow: pretraining collapses", news)

    def _embedding_floor(self) -> float:
        return self.floors["embedding_std"] * self.first.get("embedding_std", 0.0)

    def _diagnose(self, trainer: lightning.Trainer, module: Any) -> dict[str, float]:
        method, data = self.subject(trainer, module)
        if self._held_out is None:
            self._held_out = next(data.batches("validation", self.samples)).x.to(module.device)
        return method.diagnose(self._held_out)

    def _named(self, seen: dict[str, float]) -> dict[str, float]:
        return {self.prefix + name: value for name, value in seen.items()}

    def state_dict(self) -> dict[str, Any]:
        return {"first": self.first, "bad": self.bad, "alarmed": self.alarmed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.first, self.bad = state_dict["first"], state_dict["bad"]
        self.alarmed = state_dict["alarmed"]
