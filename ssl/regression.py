"""A regressor learns a number of each sample: a loudness, an age, a score.

Its command line is LightningCLI: `python -m winnow.ssl.regression fit --help`.
"""

from pathlib import Path
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional
from torchmetrics import R2Score

from winnow.data.batches import UNLABELLED, Batch
from winnow.data.modality import Modality
from winnow.data.reading import Named
from winnow.ssl.heads import Regressor
from winnow.ssl.method import Method, start
from winnow.ssl.train import Optimization, command_line


class Regression(Method):
    """Trains a regressor, trunk and head, from numbers.

    The cost is the mean over samples of the smooth L1 of the standardized error. Scores are the mean absolute
    error (`mae`), in the numbers' own unit, and the coefficient of determination (`r2`).

    Args:
        modality: of the samples.
        targets: the numbers, as text, which labels of a batch are numbers of.
        spread: mean and standard deviation of those of the train split.
        encoder: folder of the encoder to start from.
        dropout: of the trunk while training; instead of the encoder's own.
        beta: error, in standard deviations, from which the cost is linear; 0: the error counts as it is,
            and large: its square does.
        optimization: learning rate and its schedule.
        seed: of the head and of dropout.

    Raises:
        ValueError: if the encoder reads other samples.
    """

    reads: ClassVar[str] = "numbers"

    def __init__(
        self,
        modality: Modality,
        targets: list[str],
        spread: tuple[float, float],
        encoder: Path,
        dropout: float,
        beta: float,
        optimization: Optimization,
        seed: int,
    ) -> None:
        super().__init__(optimization, seed)
        self.regressor = Regressor(start(encoder, modality, dropout), ["target"]).train()
        self.regressor.center.fill_(spread[0])
        self.regressor.scale.fill_(spread[1])
        self.texts, self.beta = targets, beta
        self._r2 = R2Score()

    @property
    def kept(self) -> Regressor:
        return self.regressor

    def _told(self, batch: Batch) -> tuple[Float[Tensor, " told"], Float[Tensor, " told"]]:
        """Give what is said of the samples whose number is known, and that number."""
        told = batch.label != UNLABELLED
        numbers = [float(self.texts[index]) for index in batch.label[told].tolist()]
        said = self.regressor(batch.x)
        return said[told], torch.tensor(numbers, dtype=said.dtype, device=said.device)

    def _cost(self, said: Float[Tensor, " told"], wanted: Float[Tensor, " told"]) -> Float[Tensor, ""]:
        scale = self.regressor.scale
        return functional.smooth_l1_loss(said / scale, wanted / scale, reduction="sum", beta=self.beta)

    def costs(self, batch: Batch) -> tuple[Float[Tensor, ""], Int[Tensor, ""]]:
        said, wanted = self._told(batch)
        return self._cost(said, wanted), torch.tensor(len(said), device=said.device)

    def measures(self, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        said, wanted = self._told(batch)
        number = torch.tensor(len(said), device=said.device)
        if number:
            self._r2.update(said, wanted)
        return {"loss": (self._cost(said, wanted), number), "mae": ((said - wanted).abs().sum(), number)}

    def summarize(self) -> dict[str, Float[Tensor, ""]]:
        r2 = self._r2.compute()  # over all processes
        self._r2.reset()
        return {"r2": r2}

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.measure(batch)

    def predict_step(self, batch: Named, batch_idx: int) -> dict[str, Float[Tensor, " batch"]]:
        return {"value": self.regressor(batch.x)}


if __name__ == "__main__":
    command_line(Regression)
