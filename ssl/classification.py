"""A classifier learns from labels: the loss, the score, and the method around them."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from timm.data import Mixup
from torch import Tensor, nn
from torch.nn import functional

from winnow.data.batches import UNLABELLED, Batch, seed_of
from winnow.data.modality import Modality
from winnow.data.reading import Named
from winnow.ssl.method import Method, start
from winnow.ssl.model import Classifier
from winnow.ssl.train import Optimization
from winnow.ssl.trunk import Encoder


def label_loss(
    logits: Float[Tensor, "batch class"], label: Int[Tensor, " batch"], smoothing: float
) -> Float[Tensor, ""]:
    """Give the mean cross-entropy of the labelled samples; 0 where there is none."""
    loss, number = label_costs(logits, label, smoothing)
    return loss / number.clamp(min=1)


def label_costs(
    logits: Float[Tensor, "batch class"], label: Int[Tensor, " batch"], smoothing: float
) -> tuple[Float[Tensor, ""], Int[Tensor, ""]]:
    """Give the summed cross-entropy of the labelled samples, and their number."""
    loss = functional.cross_entropy(
        logits, label, ignore_index=UNLABELLED, label_smoothing=smoothing, reduction="sum"
    )
    return loss, (label != UNLABELLED).sum()


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


def label_measures(
    logits: Float[Tensor, "batch class"], label: Int[Tensor, " batch"]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Give accuracy and loss of the labelled samples, as `Method.measures` reports them."""
    loss, number = label_costs(logits, label, 0.0)
    return {"accuracy": ((logits.argmax(1) == label).sum(), number), "loss": (loss, number)}


def accuracy(logits: Float[Tensor, "sample class"], label: Int[Tensor, " sample"]) -> float:
    """Give the share of the labelled samples that are classified right [0–1].

    Raises:
        ValueError: if no sample has a label.
    """
    labelled = label != UNLABELLED
    if not labelled.any():
        raise ValueError("no sample has a label: accuracy is not defined")
    return float((logits.argmax(1) == label)[labelled].float().mean())


def depth(name: str, encoder: Encoder) -> int:
    """Say how deep a classifier's parameter lies: in which layer, from 1; before them is 0.

    What comes behind the layers, and what all of them share, lies as deep as the head: one below the last.
    """
    part, _, rest = name.removeprefix("encoder.").partition(".")
    if part == "layers" or (part == "relative" and len(encoder.relative) > 1):
        return int(rest.partition(".")[0]) + 1
    return len(encoder.layers) + 1 if part in {"head", "output_norm", "relative"} else 0


@dataclass(frozen=True, kw_only=True)
class Mixing:
    """How often and how strongly pairs of images, and their labels, are mixed; one way for a batch.

    Attributes:
        mixup_alpha: of the Beta distribution of an image's share in a sum of two; 0: no sums.
        cutmix_alpha: the same of its share of the area, where a rectangle comes from another; 0: none.
        prob: probability that a batch is mixed at all.
        switch_prob: of a mixed batch that it is by rectangles, where both are possible.

    Raises:
        ValueError: if there is no way to mix.

    Paper: mixup (Zhang et al. 2018, arXiv 1710.09412), section 2; CutMix (Yun et al. 2019, arXiv
    1905.04899), section 3.1.
    """

    mixup_alpha: float
    cutmix_alpha: float
    prob: float
    switch_prob: float

    def __post_init__(self) -> None:
        if self.mixup_alpha <= 0 and self.cutmix_alpha <= 0:
            raise ValueError("mixup needs a mixup_alpha or a cutmix_alpha above 0; null switches it off")


class Classification(Method):
    """Trains a classifier, trunk and head, from labels.

    Args:
        modality: of the samples.
        classes: of the samples.
        encoder: folder of the encoder to start from.
        dropout: of the trunk while training; instead of the encoder's own.
        label_smoothing: probability that labels give to all classes alike [0–1].
        layer_decay: factor of the learning rate from each layer to the one before it; 1: all learn alike.
            Layer l of L has lr * layer_decay^(L + 1 - l), frontend and positions as l = 0, the head lr, as
            in BEiT (Bao et al. 2021, arXiv 2106.08254).
        freeze: fraction of the steps in which the head learns alone [0–1]; above 0, several devices need
            Lightning's strategy `ddp_find_unused_parameters_true`.
        mixup: of images; null: none.
        inverse_penalty: C of the logistic regression on the encoder's mean tokens that the head starts as, so
            that a random head's first gradients undo nothing; null: it starts at random.
        optimization: learning rate and its schedule.
        seed: of the head and of dropout.

    Raises:
        ValueError: if the encoder reads other samples, or some that are no images are to be mixed.

    Paper: Fine-tuning can distort pretrained features (Kumar et al. 2022, arXiv 2202.10054), section 3.4, for
    the head that starts solved.
    """

    def __init__(
        self,
        modality: Modality,
        classes: list[str],
        encoder: Path,
        dropout: float,
        label_smoothing: float,
        layer_decay: float,
        freeze: float,
        mixup: Mixing | None,
        inverse_penalty: float | None,
        optimization: Optimization,
        seed: int,
    ) -> None:
        super().__init__(optimization, seed)
        self.inverse_penalty = inverse_penalty
        self.classifier = Classifier(start(encoder, modality, dropout), classes).train()
        self.label_smoothing, self.layer_decay, self.frozen_share = label_smoothing, layer_decay, freeze
        self.mixup = None
        if mixup is not None:
            if len(modality.grid) != 2:
                raise ValueError(f"mixup is of images; a grid of {modality.grid} is none: set it to null")
            self.mixup = Mixup(**asdict(mixup), label_smoothing=label_smoothing, num_classes=len(classes))

    @property
    def classes(self) -> list[str]:
        """What an index of the head stands for."""
        return self.classifier.classes

    @property
    def kept(self) -> Classifier:
        return self.classifier

    def scales(self) -> dict[str, float]:
        if self.layer_decay == 1:
            return {}
        encoder = self.classifier.encoder
        return {
            f"classifier.{name}": self.layer_decay ** (len(encoder.layers) + 1 - depth(name, encoder))
            for name, _ in self.classifier.named_parameters()
        }

    def configure_optimizers(self) -> Any:
        self.classifier.requires_grad_(True)  # a run that was cut short may have left some of it frozen
        return super().configure_optimizers()

    def on_train_start(self) -> None:
        if self.inverse_penalty is None or self.global_step:
            return  # a run that is resumed has its head
        read, labels = [], []
        for batch in self.trainer.datamodule.batches("train", 256):  # type: ignore[attr-defined]
            read.append(pooled(self.classifier.encoder, batch.x.to(self.device), 256))
            labels.append(batch.label.to(self.device))
        self.train()
        solve_head(self.classifier.head, torch.cat(read), torch.cat(labels), self.inverse_penalty)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        super().on_train_batch_start(batch, batch_idx)
        learns = self.global_step >= self.frozen_share * self.trainer.max_steps
        self.classifier.encoder.requires_grad_(learns)

    def costs(self, batch: Batch) -> tuple[Float[Tensor, ""], Int[Tensor, ""]]:
        if self.mixup is None:
            return label_costs(self.classifier(batch.x), batch.label, self.label_smoothing)
        x, target = self.mix(batch)
        loss = functional.cross_entropy(self.classifier(x), target, reduction="sum")
        return loss, torch.tensor(len(x), device=loss.device)

    def mix(self, batch: Batch) -> tuple[Tensor, Float[Tensor, "batch class"]]:
        """Mix each image with the one that mirrors its place in the batch, and their smoothed labels.

        Raises:
            ValueError: if an image has no partner or no label.
        """
        if len(batch.x) % 2:
            raise ValueError(f"mixup pairs images: data.batch_size must be even, not {len(batch.x)}")
        if (batch.label == UNLABELLED).any():
            raise ValueError("mixup mixes labels: set data.labelled, which leaves out images without one")
        assert self.mixup is not None
        # timm draws from numpy's global generator: tied to the batch like torch's.
        np.random.seed(seed_of(self.seed, "mixup", int(batch.place[0])))
        return self.mixup(batch.x.clone(), batch.label)

    def measures(self, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        return label_measures(self.classifier(batch.x), batch.label)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.measure(batch)

    def predict_step(self, batch: Named, batch_idx: int) -> dict[str, Tensor | list[str]]:
        pred_probs = self.classifier(batch.x).softmax(1)
        named = [self.classes[index] for index in pred_probs.argmax(1).tolist()]
        return {"class": named, "pred_probs": pred_probs}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["classes"] = self.classes

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take over the classes for predicting, which samples of any label, or of none, are good for.

        Raises:
            ValueError: if they are others than those of the samples to learn from or to score by.
        """
        known = checkpoint["classes"]
        if known == self.classes:
            return
        if not self.trainer.predicting:
            raise ValueError(f"the checkpoint knows the classes {known}, the samples {self.classes}")
        self.classifier = Classifier(self.classifier.encoder, known)
