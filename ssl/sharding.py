"""Weights, gradients and the optimizer's state in parts, one on each process: `trainer.strategy: fsdp`.

Lightning's own strategy of that name is for GPUs alone, and knows no network that is called by parts. This is
torch's second FSDP, on any device.
"""

from pathlib import Path
from typing import Any

from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.optim import Optimizer


class Sharded(ModelParallelStrategy):
    """Spreads a method over all processes. Its checkpoints are those of any strategy: whole, and one file."""

    def __init__(self) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False)

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Give the whole state of an optimizer on the first process, as it gives it itself if not sharded."""
        plain = optimizer.optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        whole = StateDictOptions(full_state_dict=True, cpu_offload=True)
        state: dict[str, Any] = get_optimizer_state_dict(self._network, plain, options=whole)
        if self.global_rank:
            return state
        return _renamed(state, {name: number for number, name in enumerate(self._names(plain))})

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint, whichever strategy wrote it, and deal it out."""
        checkpoint: dict[str, Any] = self.checkpoint_io.load_checkpoint(Path(self.broadcast(checkpoint_path)))
        whole = StateDictOptions(full_state_dict=True)
        set_model_state_dict(self._network, checkpoint["state_dict"], options=whole)
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=False):
            named = _renamed(state, dict(enumerate(self._names(optimizer))))
            set_optimizer_state_dict(self._network, optimizer, named, options=whole)
            for group, read in zip(optimizer.param_groups, state["param_groups"], strict=True):
                group |= {
                    key: value for key, value in read.items() if key != "params"
                }  # tuples are lists now
        return checkpoint

    @property
    def _network(self) -> nn.Module:
        assert self.model is not None
        return self.model

    def _names(self, optimizer: Optimizer) -> list[str]:
        """Name the weights in the order in which an optimizer numbers them, which is not the network's."""
        known = {weight: name for name, weight in self._network.named_parameters()}
        return [known[weight] for group in optimizer.param_groups for weight in group["params"]]


def _renamed(state: dict[str, Any], names: dict[Any, Any]) -> dict[str, Any]:
    groups = [
        {**group, "params": [names[name] for name in group["params"]]} for group in state["param_groups"]
    ]
    return {
        "state": {other: state["state"][name] for name, other in names.items() if name in state["state"]},
        "param_groups": groups,
    }


def shard(
    method: nn.Module, mesh: DeviceMesh, layers: tuple[type[nn.Module], ...], steps: tuple[str, ...]
) -> None:
    """Spread a method's weights over the processes of a mesh, in place.

    A layer's are together while it runs; all others are while one of the steps runs.

    Args:
        method: has whole weights, the same everywhere.
        mesh: of one axis.
        layers: kinds of modules that are layers.
        steps: its methods that run the network.
    """
    for module in method.modules():
        if isinstance(module, layers):
            fully_shard(module, mesh=mesh, reshard_after_forward=True)
    fully_shard(method, mesh=mesh, reshard_after_forward=True)
    for step in steps:
        register_fsdp_forward_method(method, step)
