"""Predictions go to Parquet as they come: as many samples as there are, in the memory of a shard."""

import json
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import lightning
import pyarrow as pa
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from winnow.data.reading import Named
from winnow.data.shards import ShardWriter


class PredictionWriter(Callback):
    """Writes one row for each sample: its id, and what the method's `predict_step` says of it.

    Where that says something of each class, the schema's metadata names them, in their order.

    Args:
        out: folder that receives `00000.parquet`, `00001.parquet`, … when all is predicted; must not exist.
    """

    def __init__(self, out: Path) -> None:
        self.out, self._partial = out, out.with_name(f".{out.name}.partial")
        self._writer: ShardWriter | None = None
        self._open = ExitStack()

    def setup(self, trainer: lightning.Trainer, module: Any, stage: str) -> None:
        """Find out before the work what could not be written after it.

        Raises:
            FileExistsError: if the folder is there.
            ValueError: if several devices would write it.
        """
        if self.out.exists():
            raise FileExistsError(f"{self.out} exists: remove it, or name another folder")
        if trainer.world_size > 1:
            raise ValueError(
                f"{self.out} is written by one process, in order; trainer.devices gives {trainer.world_size}"
            )
        shutil.rmtree(self._partial, ignore_errors=True)  # what a killed run left

    def on_predict_batch_end(
        self,
        trainer: lightning.Trainer,
        module: Any,
        outputs: Mapping[str, Tensor | list[str]],
        batch: Named,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        columns = {"id": _column(batch.ids), **{name: _column(rows) for name, rows in outputs.items()}}
        classes = {"classes": json.dumps(module.classes)} if hasattr(module, "classes") else None
        table = pa.table(columns, metadata=classes)
        if self._writer is None:
            self._writer = self._open.enter_context(ShardWriter(self._partial, table.schema))
        self._writer.extend(table)

    def on_predict_end(self, trainer: lightning.Trainer, module: Any) -> None:
        self._open.close()
        self._partial.rename(self.out)


def _column(rows: Tensor | list[str]) -> pa.Array:
    if isinstance(rows, list):
        return pa.array(rows, pa.string())
    numbers = rows.float().cpu().numpy()
    if numbers.ndim == 1:
        return pa.array(numbers)
    return pa.FixedSizeListArray.from_arrays(pa.array(numbers.ravel()), numbers.shape[1])
