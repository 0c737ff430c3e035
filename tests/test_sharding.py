import copy
import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning
import pytest
import tiny
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from test_data2vec import SHAPE, make
from torch import Tensor, distributed, multiprocessing
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from winnow.ssl import model as models
from winnow.ssl.method import Method
from winnow.ssl.sharding import Sharded, shard
from winnow.ssl.trunk import Layer


def test_a_teacher_follows_on_sharded_weights_which_are_kept_whole() -> None:
    multiprocessing.start_processes(follow_on_sharded_weights, nprocs=2, start_method="fork")


@pytest.mark.parametrize(
    ("method", "strategy", "said"),
    [
        (tiny.taught(tiny.classifier(), tiny.classifier()), Sharded, "shards `pretrain` alone: write ddp"),
        (make(shape=replace(SHAPE, drop_layer=0.1)), Sharded, r"needs shape\.drop_layer 0"),
        (make(), ModelParallelStrategy, r"write trainer\.strategy fsdp"),
    ],
)
def test_says_what_cannot_be_sharded(method: Method, strategy: Any, said: str) -> None:
    method.trainer = lightning.Trainer(strategy=strategy(), accelerator="cpu", devices=1, logger=False)
    with pytest.raises(ValueError, match=said):
        method.configure_model()


def follow_on_sharded_weights(rank: int) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29577"}
    distributed.init_process_group("gloo", rank=rank, world_size=2)
    method = make()
    plain = copy.deepcopy(method)
    shard(method, init_device_mesh("cpu", (2,)), (Layer,), method.steps)
    held, all_of_it = (sum(map(elements, one.parameters())) for one in (method, plain))
    assert held <= 0.51 * all_of_it
    for moved in (method, plain):
        moved.update_teacher(0.9)
    with tempfile.TemporaryDirectory() as folder:
        models.save(method.teacher, Path(folder))
        kept = models.load_encoder(Path(folder))
    for weight, wanted in zip(kept.parameters(), plain.teacher.parameters(), strict=True):
        assert torch.equal(weight, wanted)
    distributed.destroy_process_group()


def elements(weight: Tensor) -> int:
    """Count those of a weight that are on this process."""
    return weight.to_local().numel() if isinstance(weight, DTensor) else weight.numel()
