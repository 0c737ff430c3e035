from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import tiny
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from winnow.data.reading import Named
from winnow.ssl.prediction import PredictionWriter

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")


class Counted(IterableDataset[Named]):
    """Samples that say which they are."""

    def __init__(self, batches: int, size: int) -> None:
        self.batches, self.size = batches, size

    def __iter__(self) -> Iterator[Named]:
        for start in range(0, self.batches * self.size, self.size):
            numbers = range(start, start + self.size)
            yield Named([f"s{n}" for n in numbers], torch.tensor(numbers)[:, None].float())


class Doubling(lightning.LightningModule):
    """Predicts twice what it sees, as a text and as numbers."""

    def predict_step(self, batch: Named, batch_idx: int) -> dict[str, Tensor | list[str]]:
        if batch_idx == 1000:
            raise RuntimeError("the thousandth batch")
        twice = 2 * batch.x
        return {"class": [f"{value:.0f}" for value in twice[:, 0].tolist()], "vector": twice.expand(-1, 256)}


def predict(out: Path, batches: int, *callbacks: lightning.Callback, size: int = 10) -> None:
    trainer = tiny.trainer(1, PredictionWriter(out), *callbacks)
    loader = DataLoader(Counted(batches, size), batch_size=None)
    trainer.predict(Doubling(), loader, return_predictions=False)


def test_rows_are_whole_and_in_order_over_several_files(tmp_path: Path) -> None:
    predict(tmp_path / "out", 900)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        f"{shard:05}.parquet" for shard in range(3)
    ]
    table = pd.read_parquet(tmp_path / "out")
    assert list(table["id"]) == [f"s{n}" for n in range(9000)]
    assert list(table["class"]) == [str(2 * n) for n in range(9000)]
    wanted = np.broadcast_to(2.0 * np.arange(9000)[:, None], (9000, 256))
    np.testing.assert_array_equal(np.stack(table["vector"]), wanted)


def test_no_more_rows_are_held_than_a_file_has(tmp_path: Path) -> None:
    held: list[int] = []

    class Watch(lightning.Callback):
        def on_predict_batch_end(self, *rest: Any) -> None:
            held.append(pa.total_allocated_bytes())

    predict(tmp_path / "out", 900, Watch())
    row = 256 * 4  # bytes of a vector
    assert max(held) - held[0] < 2 * 4096 * row < 9000 * row


def test_what_is_interrupted_leaves_nothing_in_its_place_and_may_be_run_again(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="thousandth"):
        predict(tmp_path / "out", 1001)
    assert not (tmp_path / "out").exists()
    predict(tmp_path / "out", 3)
    assert len(pd.read_parquet(tmp_path / "out")) == 30
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_that_is_there_is_refused_before_the_work(tmp_path: Path) -> None:
    predict(tmp_path / "out", 1)
    with pytest.raises(FileExistsError, match="out exists"):
        predict(tmp_path / "out", 1001)


def test_several_devices_are_refused(tmp_path: Path) -> None:
    trainer = lightning.Trainer(accelerator="cpu", devices=2, strategy="ddp", logger=False)
    with pytest.raises(ValueError, match=r"trainer\.devices gives 2"):
        PredictionWriter(tmp_path / "out").setup(trainer, Doubling(), "predict")
