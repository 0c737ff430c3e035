"""What all methods share: an update by the mean over the global batch, its optimizer, repeatable chance."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Shaped
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from torch import Tensor

from winnow.data.batches import Batch, seed_of
from winnow.data.modality import Modality
from winnow.ssl import model as models
from winnow.ssl.command import Trainable
from winnow.ssl.model import Model
from winnow.ssl.sharding import Sharded, shard
from winnow.ssl.train import Optimization, optimizers
from winnow.ssl.trunk import Encoder, Layer, set_dropout
from winnow.ssl.vit import TimmLayer


def start(encoder: Path, modality: Modality, dropout: float) -> Encoder:
    """Load the encoder that a head is to stand on.

    Raises:
        ValueError: if it reads other samples.
    """
    trunk = models.load_encoder(encoder)
    models.require_modality("encoder", trunk, modality)
    set_dropout(trunk, dropout)
    return trunk


class Method(Trainable):
    """Trains by the mean cost over all batches of an update: those of all processes, and all accumulated.

    What the cost is a mean over (hidden tokens, labelled samples) may be more in one batch than in another.
    The mean of their means, which DDP and accumulation give, would then weigh the same token differently by
    where it was dealt. So each batch contributes its sum, and before an update the gradients are divided by
    the number of all.

    Args:
        optimization: learning rate and its schedule.
        seed: of dropout, and of what a method draws for its samples.

    Attributes:
        lr: peak learning rate, under the name by which Lightning's finder of one reads and sets it.
        steps: methods that run the network, which `trainer.strategy: fsdp` can then shard; it asks for all.
    """

    steps: ClassVar[tuple[str, ...]] = ()

    def __init__(self, optimization: Optimization, seed: int) -> None:
        super().__init__()
        self.optimization, self.seed, self.lr = optimization, seed, optimization.lr
        self._tally: list[Tensor] = []  # of each batch since the last update
        self._measured: dict[str, list[Tensor]] = {}  # of each batch of a split that is scored

    @property
    def kept(self) -> Model:
        """The network that the training is for."""
        raise NotImplementedError

    def save(self, out: Path) -> None:
        models.save(self.kept, out)

    def costs(self, batch: Batch) -> tuple[Float[Tensor, ""], Shaped[Tensor, ""]]:
        """Give the sum of what a batch costs, and over how many that is to be averaged."""
        raise NotImplementedError

    def measures(self, batch: Batch) -> dict[str, tuple[Shaped[Tensor, ""], Shaped[Tensor, ""]]]:
        """Give what is reported of a batch that is scored, by name, always the same; each as in `costs`."""
        raise NotImplementedError

    def summarize(self) -> Mapping[str, Float[Tensor, ""]]:
        """Give scores of a split that are no mean over its batches, and forget what `measures` saw."""
        return {}

    def scales(self) -> Mapping[str, float]:
        """Name the parameters that have a fraction of the learning rate only."""
        return {}

    def configure_model(self) -> None:
        """Spread the weights over the processes, if the strategy is to.

        Raises:
            ValueError: if the method cannot run so.
        """
        strategy = self.trainer.strategy
        if not isinstance(strategy, Sharded):
            if isinstance(strategy, FSDPStrategy | ModelParallelStrategy):
                raise ValueError(f"a {type(strategy).__name__} is not used here: write trainer.strategy fsdp")
            return
        if not self.steps:
            raise ValueError("trainer.strategy fsdp shards `pretrain` alone: write ddp")
        if any(getattr(module, "drop_layer", 0) for module in self.modules()):
            raise ValueError(
                "trainer.strategy fsdp needs shape.drop_layer 0: all processes run the same layers"
            )
        shard(self, strategy.device_mesh["data_parallel"], (Layer, TimmLayer), self.steps)

    def configure_optimizers(self) -> Any:
        optimization = replace(self.optimization, lr=self.lr)
        if self.lr == self.optimization.lr:  # one that a finder has found is of this batch
            optimization = optimization.of(getattr(self.trainer, "datamodule", None))
        return optimizers(self, optimization, self.trainer.max_steps, self.scales())

    def on_fit_start(self) -> None:
        if self.lr != self.optimization.lr:
            # A finder among the callbacks has found another one since the optimizer was made; Lightning
            # sets it for the next step, and the schedule would go back to the old one after that.
            self.trainer.strategy.setup_optimizers(self.trainer)
            self.trainer.callback_metrics.clear()  # of the search, which are no news of this run

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        # Dropout draws from the global generator: tied to the batch, so that a resumed run repeats it and
        # every process, and every accumulated batch, has its own.
        torch.manual_seed(seed_of(self.seed, "dropout", int(batch.place[0])))

    def training_step(self, batch: Batch, batch_idx: int) -> Float[Tensor, ""]:
        total, number = self.costs(batch)
        size = len(batch.x)
        # In 32 bits, of which a count of tokens needs more than half precision has.
        counted = total.new_tensor(size, dtype=torch.float)
        self._tally.append(torch.stack([total.detach().float(), number.float(), counted]))
        return total / size  # the same for all: the batches of a run are of one size

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        # The gradients are by now those of the sum over all batches, divided by the number of samples.
        total, number, size = self._sum(self._tally)
        self._tally.clear()
        number = number.clamp(min=1)  # of labels there may be none
        for group in optimizer.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    weight.grad.mul_(size / number)
        self.report(total / number)

    def report(self, loss: Float[Tensor, ""]) -> None:
        """Log what an update cost."""
        self.log("loss", loss, prog_bar=True)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.measure(batch)

    def on_validation_epoch_end(self) -> None:
        self._report("val")

    def on_test_epoch_end(self) -> None:
        self._report("test")

    def measure(self, batch: Batch) -> None:
        """Count a batch in what is reported when the whole split is scored."""
        for name, (total, number) in self.measures(batch).items():
            self._measured.setdefault(name, []).append(torch.stack([total.float(), number.float()]))

    def _report(self, split: str) -> None:
        # Lightning's own mean over processes rounds the number of samples of each.
        for name, measured in self._measured.items():
            total, number = self._sum(measured)
            if number:
                self.log(f"{split}/{name}", total / number, prog_bar=name == "accuracy", sync_dist=True)
        self._measured.clear()
        for name, score in self.summarize().items():
            self.log(f"{split}/{name}", score, sync_dist=True)

    def _sum(self, tallies: list[Tensor]) -> tuple[Tensor, ...]:
        """Add up over batches and processes."""
        return self.trainer.strategy.reduce(torch.stack(tallies).sum(0), reduce_op="sum").unbind()
