"""Checkpoints without pickle: one safetensors file, whose header holds everything that is no tensor."""

import json
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import CheckpointIO
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor


class PlainCheckpoint(CheckpointIO):
    """Lets Lightning save and resume through a plain format; reading one can run no code."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        tensors: dict[str, Tensor] = {}
        tree = json.dumps(_plain(checkpoint, tensors))
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        # Complete or absent: a run that is killed while saving keeps the checkpoint before.
        partial = target.with_name(f".{target.name}.partial")
        save_file(tensors, partial, metadata={"tree": tree})
        partial.replace(target)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read what `save_checkpoint` wrote.

        Raises:
            ValueError: if something else has written it.
        """
        device = str(map_location) if isinstance(map_location, str | torch.device) else "cpu"
        try:
            with safe_open(path, framework="pt", device=device) as file:
                tree = json.loads((file.metadata() or {})["tree"])
                return _restore(tree, file.get_tensor)
        except (SafetensorError, KeyError) as error:
            raise ValueError(f"{path} is no checkpoint that this project's training has written") from error

    def remove_checkpoint(self, path: str | Path) -> None:
        Path(path).unlink(missing_ok=True)


def _plain(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Describe a tree in JSON; what JSON cannot say becomes a one-key object with a kind."""
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {"tensor": name}
    if isinstance(value, dict):
        return {"dict": [[_plain(k, tensors), _plain(v, tensors)] for k, v in value.items()]}
    if isinstance(value, tuple):
        return {"tuple": [_plain(item, tensors) for item in value]}
    if isinstance(value, list):
        return [_plain(item, tensors) for item in value]
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a checkpoint cannot hold a {type(value).__name__}: {value!r}")


def _restore(value: Any, tensor: Any) -> Any:
    if isinstance(value, list):
        return [_restore(item, tensor) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensor(content)
    if kind == "tuple":
        return tuple(_restore(item, tensor) for item in content)
    return {_restore(k, tensor): _restore(v, tensor) for k, v in content}
