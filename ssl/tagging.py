"""A tagger learns which of several labels hold of each sample: none, one or more.

Its command line is LightningCLI: `python -m winnow.ssl.tagging fit --help`.
"""

from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional
from torchmetrics import CatMetric
from torchmetrics.functional.classification import binary_average_precision

from winnow.data.batches import UNLABELLED, Batch
from winnow.data.modality import Modality
from winnow.data.reading import Named
from winnow.ssl.heads import Tagger
from winnow.ssl.method import Method, start
from winnow.ssl.train import Optimization, command_line


class Tagging(Method):
    """Trains a tagger, trunk and head, from sets of labels.

    The cost is the binary cross-entropy, the mean over samples and labels. Scores are the mean over labels of
    the average precision (`mean_average_precision`; labels that hold nowhere are left out), and the F1 of
    what is at least as likely as not, of all labels in one (`f1`) and of each (`f1/label`).

    Args:
        modality: of the samples.
        targets: the sets, which labels of a batch are numbers of.
        separator: that stands between the labels of a set; alone, it is the set of none.
        encoder: folder of the encoder to start from.
        dropout: of the trunk while training; instead of the encoder's own.
        optimization: learning rate and its schedule.
        seed: of the head and of dropout.

    Raises:
        ValueError: if the encoder reads other samples.
    """

    reads: ClassVar[str] = "sets"

    def __init__(
        self,
        modality: Modality,
        targets: list[str],
        separator: str,
        encoder: Path,
        dropout: float,
        optimization: Optimization,
        seed: int,
    ) -> None:
        super().__init__(optimization, seed)
        self.separator = separator
        self.sets = [{name.strip() for name in text.split(separator)} - {""} for text in targets]
        classes = sorted(set().union(*self.sets))
        self._likely, self._holds = CatMetric(), CatMetric()
        self.tagger = Tagger(start(encoder, modality, dropout), classes).train()

    @property
    def classes(self) -> list[str]:
        """What a column of the head stands for."""
        return self.tagger.classes

    @property
    def kept(self) -> Tagger:
        return self.tagger

    def _told(self, batch: Batch) -> tuple[Float[Tensor, "told class"], Bool[Tensor, "told class"]]:
        """Give the logits of the samples whose labels are known, and which hold.

        Raises:
            ValueError: if one of them is unknown.
        """
        told = batch.label != UNLABELLED
        sets = [self.sets[index] for index in batch.label[told].tolist()]
        if unknown := set().union(*sets) - set(self.classes):
            raise ValueError(f"labels {sorted(unknown)} are none of those learned: {self.classes}")
        logits = self.tagger(batch.x)[told]
        holds = [[name in one for name in self.classes] for one in sets]
        return logits, torch.tensor(holds, dtype=torch.bool, device=logits.device).reshape(logits.shape)

    def costs(self, batch: Batch) -> tuple[Float[Tensor, ""], Int[Tensor, ""]]:
        logits, holds = self._told(batch)
        loss = functional.binary_cross_entropy_with_logits(logits, holds.to(logits), reduction="sum")
        return loss, torch.tensor(holds.numel(), device=loss.device)

    def measures(self, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        logits, holds = self._told(batch)
        loss = functional.binary_cross_entropy_with_logits(logits, holds.to(logits), reduction="sum")
        if len(holds):
            self._likely.update(logits.sigmoid())
            self._holds.update(holds)
        said = logits >= 0
        # F1 is 2 hits of all that are said or hold: sums, that add up over batches and processes.
        hits, of = 2 * (said & holds).sum(0), said.sum(0) + holds.sum(0)
        of_each = {f"f1/{name}": (hits[i], of[i]) for i, name in enumerate(self.classes)}
        number = torch.tensor(holds.numel(), device=loss.device)
        return {"loss": (loss, number), "f1": (hits.sum(), of.sum()), **of_each}

    def summarize(self) -> dict[str, Float[Tensor, ""]]:
        likely, holds = self._likely.compute(), self._holds.compute()  # over all processes
        self._likely.reset()
        self._holds.reset()
        there = [i for i in range(len(self.classes)) if holds[:, i].any()]
        of_each = [binary_average_precision(likely[:, i], holds[:, i].long()) for i in there]
        return {"mean_average_precision": torch.stack(of_each).mean()} if of_each else {}

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.measure(batch)

    def predict_step(self, batch: Named, batch_idx: int) -> dict[str, Tensor | list[str]]:
        pred_probs = self.tagger(batch.x).sigmoid()
        named = [
            self.separator.join(name for name, prob in zip(self.classes, row, strict=True) if prob >= 0.5)
            for row in pred_probs.tolist()
        ]
        return {"labels": named, "pred_probs": pred_probs}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["classes"] = self.classes

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take over the labels, by which samples with some of them can be scored.

        Raises:
            ValueError: if they are others than those to go on learning.
        """
        known = checkpoint["classes"]
        if known == self.classes:
            return
        if self.trainer.training:
            raise ValueError(f"the checkpoint knows the labels {known}, the samples {self.classes}")
        self.tagger = Tagger(self.tagger.encoder, known)


if __name__ == "__main__":
    command_line(Tagging)
