"""The mean over the global batch, of a method whose costs can be counted by hand."""

from typing import Any

import pytest
import tiny
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from winnow.data.batches import Batch
from winnow.ssl.method import Method

# Lightning's own use of torch; the stages hide it from their users in the same way.
pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")


class Line(Method):
    """Its weight is to be the labels' mean; only samples with x above 0 count."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__(tiny.OPTIMIZATION, seed=0)
        self.weight = nn.Parameter(torch.zeros(()))
        self.dropout = nn.Dropout(dropout)
        self.dropped: list[Tensor] = []
        self.losses: list[float] = []

    def costs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        self.dropped.append(self.dropout(torch.ones(20)))
        counts = batch.x > 0
        return (self.weight - batch.label[counts]).square().sum(), counts.sum()

    def measures(self, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        return {"loss": self.costs(batch)}

    def optimizer_step(self, *args: Any, **keywords: Any) -> None:
        super().optimizer_step(*args, **keywords)
        self.losses.append(float(self.trainer.callback_metrics["loss"]))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.5)


ROWS = Batch(
    torch.tensor([1, 1, 1, 1, 0, 0, 0, 1, 0, 0, 0, 0]),  # four count, then one, then none
    torch.tensor([1.0, 2.0, 3.0, 4.0, 9.0, 9.0, 9.0, 10.0, 9.0, 9.0, 9.0, 9.0]),
    torch.arange(12),
)


def parts(size: int) -> list[Batch]:
    return [Batch(*(column[start : start + size] for column in ROWS)) for start in range(0, 8, size)]


def fitted(batches: list[Batch], accumulate: int = 1, dropout: float = 0.0) -> Line:
    method, trainer = Line(dropout), tiny.trainer(len(batches) // accumulate)
    trainer.accumulate_grad_batches = accumulate
    loaders = [DataLoader(rows, batch_size=None) for rows in (batches, [ROWS])]  # type: ignore[arg-type]
    trainer.fit(method, *loaders)
    return method


@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_an_update_is_by_the_mean_of_what_counts_however_the_batch_is_split(accumulate: int) -> None:
    """The mean of 1, 2, 3, 4 and 10 is 4; the mean of the halves' means would be 6.25."""
    method = fitted(parts(8 // accumulate), accumulate)
    assert method.weight.item() == pytest.approx(4)  # SGD at half a step goes to the minimum
    assert method.losses == [pytest.approx((1 + 4 + 9 + 16 + 100) / 5)]


def test_a_batch_of_which_nothing_counts_moves_nothing() -> None:
    method = fitted([Batch(*(column[8:] for column in ROWS))])
    assert method.weight.item() == 0
    assert method.losses == [0]


def test_validation_is_the_mean_of_what_counts_however_it_is_split() -> None:
    for size in (2, 3, 8):
        loader = DataLoader(parts(size), batch_size=None)  # type: ignore[arg-type]
        (seen,) = tiny.trainer(1).validate(Line(), loader, verbose=False)
        assert seen == {"val/loss": pytest.approx((1 + 4 + 9 + 16 + 100) / 5)}


def test_dropout_differs_between_batches_and_is_the_same_in_another_run() -> None:
    runs = [fitted(parts(2), 2, dropout=0.5).dropped for _ in range(2)]
    assert all(torch.equal(one, other) for one, other in zip(*runs, strict=True))
    assert len({tuple(dropped.tolist()) for dropped in runs[0][:4]}) == 4
