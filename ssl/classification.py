"""A classifier learns from labels: the loss, the score, and the method around them."""

from pathlib import Path
from typing import Any

import lightning
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from winnow.data.batches import UNLABELLED, Batch
from winnow.data.modality import Modality
from winnow.ssl import model as models
from winnow.ssl.model import Classifier
from winnow.ssl.train import Optimization, optimizers
from winnow.ssl.trunk import Encoder, set_dropout


def label_loss(
    logits: Float[Tensor, "batch class"], label: Int[Tensor, " batch"], smoothing: float
) -> Float[Tensor, ""]:
    """Give the mean cross-entropy of the labelled samples; 0 where there is none."""
    loss = functional.cross_entropy(
        logits, label, ignore_index=UNLABELLED, label_smoothing=smoothing, reduction="sum"
    )
    return loss / (label != UNLABELLED).sum().clamp(min=1)


@torch.no_grad()
def predict(model: Classifier, x: Tensor, batch_size: int) -> Float[Tensor, "sample class"]:
    """Give the logits of many samples, batch by batch, in evaluation mode."""
    model.eval()
    return torch.cat([model(part) for part in x.split(batch_size)])


@torch.no_grad()
def pooled(encoder: Encoder, x: Tensor, batch_size: int) -> Float[Tensor, "sample dim"]:
    """Give what a head reads of many samples: the mean token of the last layer, in evaluation mode."""
    encoder.eval()
    return torch.cat([encoder.pooled(encoder(part)) for part in x.split(batch_size)])


def solve_head(
    head: nn.Linear, x: Float[Tensor, "sample dim"], label: Int[Tensor, " sample"], inverse_penalty: float
) -> None:
    """Make a head the logistic regression of the labelled samples.

    Args:
        head: is solved in place.
        x: what it reads.
        label: of each sample, `UNLABELLED` for none.
        inverse_penalty: C of the regression, on standardized x.
    """
    mean, scale = x.mean(0), x.std(0) + 1e-6
    standard = (x - mean) / scale
    decay = 0.5 / (inverse_penalty * max(int((label != UNLABELLED).sum()), 1))
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = label_loss(head(standard), label, 0.0) + decay * head.weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    with torch.no_grad():
        head.weight.div_(scale)
        head.bias.sub_(head.weight @ mean)
    optimizer.zero_grad()


def accuracy(logits: Float[Tensor, "sample class"], label: Int[Tensor, " sample"]) -> float:
    """Give the share of the labelled samples that are classified right [0–1].

    Raises:
        ValueError: if no sample has a label.
    """
    labelled = label != UNLABELLED
    if not labelled.any():
        raise ValueError("no sample has a label: accuracy is not defined")
    return float((logits.argmax(1) == label)[labelled].float().mean())


class Classification(lightning.LightningModule):
    """Trains a classifier, trunk and head, from labels.

    Args:
        modality: of the samples.
        classes: of the samples.
        encoder: folder of the encoder to start from.
        dropout: of the trunk while training; instead of the encoder's own.
        label_smoothing: probability that labels give to all classes alike [0–1].
        optimization: learning rate and its schedule.
        seed: of the head and of dropout.
    """

    def __init__(
        self,
        modality: Modality,
        classes: list[str],
        encoder: Path,
        dropout: float,
        label_smoothing: float,
        optimization: Optimization,
        seed: int,
    ) -> None:
        super().__init__()
        trunk = models.load_encoder(encoder)
        set_dropout(trunk, dropout)
        self.classifier = Classifier(trunk, classes).train()
        self.label_smoothing, self.optimization, self.seed = label_smoothing, optimization, seed

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        # Dropout draws from the global generator: tied to the step, so that a resumed run repeats it.
        torch.manual_seed(self.seed * 1_000_003 + self.global_step)

    def training_step(self, batch: Batch, batch_idx: int) -> Float[Tensor, ""]:
        loss = label_loss(self.classifier(batch.x), batch.label, self.label_smoothing)
        self.log("loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        logits, size = self.classifier(batch.x), len(batch.label)
        self.log("val/accuracy", accuracy(logits, batch.label), prog_bar=True, batch_size=size)
        self.log("val/loss", label_loss(logits, batch.label, 0.0), batch_size=size)

    def configure_optimizers(self) -> Any:
        return optimizers(self, self.optimization, self.trainer.max_steps)
