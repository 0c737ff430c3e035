"""Weights, gradients and the optimizer's state in parts, one on each process: `trainer.strategy: fsdp`.

Lightning's own strategy of that name is for GPUs alone, and knows no network that is called by parts. This
one is torch's second FSDP, on any device.
"""

from pathlib import Path
from typing import Any

from lightning.fabric.strategies.model_parallel import _rekey_optimizer_state_if_needed
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

WHOLE = StateDictOptions(full_state_dict=True)


class Sharded(ModelParallelStrategy):
    """Spreads a method over all processes; checkpoints are whole, one plain file, as always."""

    def __init__(self) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False)

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint, whichever strategy wrote it, and deal out its weights."""
        checkpoint: dict[str, Any] = self.checkpoint_io.load_checkpoint(Path(self.broadcast(checkpoint_path)))
        assert self.model is not None
        set_model_state_dict(self.model, checkpoint["state_dict"], options=WHOLE)
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            named = _rekey_optimizer_state_if_needed(state, self.model)
            set_optimizer_state_dict(self.model, optimizer, named, options=WHOLE)
        return checkpoint


def shard(
    method: nn.Module, mesh: DeviceMesh, layers: tuple[type[nn.Module], ...], steps: tuple[str, ...]
) -> None:
    """Spread a method's weights over the processes of a mesh, in place.

    A layer's are together only while it runs. All others are together while one of the steps runs.

    Args:
        method: has whole weights, the same everywhere.
        mesh: of one axis.
        layers: kinds of modules whose weights are of one layer.
        steps: the methods that run it.
    """
    for module in method.modules():
        if isinstance(module, layers):
            fully_shard(module, mesh=mesh, reshard_after_forward=True)
    fully_shard(method, mesh=mesh, reshard_after_forward=True)
    for step in steps:
        register_fsdp_forward_method(method, step)
