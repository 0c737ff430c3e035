"""What runs a classifier: x, a batch of samples, to what it says of them. One interface, several ways."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from winnow.data import modality as modalities
from winnow.data.modality import Modality
from winnow.ssl.model import Classifier


class Answer(NamedTuple):
    """What a classifier says of a batch.

    Attributes:
        logits: of each class.
        embedding: what the head reads: the mean token of the last layer.
    """

    logits: Float32[np.ndarray, "batch class"]
    embedding: Float32[np.ndarray, "batch dim"]


@runtime_checkable
class Runtime(Protocol):
    """What can run a classifier: a batch of samples, as `Modality.load` gives them, to the answer.

    Attributes:
        name: of its kind.
    """

    name: ClassVar[str]

    def __call__(self, x: Tensor) -> Answer:
        """Run one batch."""
        ...


class TorchRuntime:
    """The reference: torch, in the arithmetic of the integers.

    Args:
        model: of `winnow.compress.integer`, or a float one.
    """

    name: ClassVar[str] = "torch"

    def __init__(self, model: Classifier) -> None:
        self.model = model.eval()

    @torch.inference_mode()
    def __call__(self, x: Tensor) -> Answer:
        embedding = self.model.encoder.pooled(self.model.encoder(x))
        return Answer(self.model.head(embedding).numpy(), embedding.numpy())


class OnnxRuntime:
    """An ONNX file that `quantize` wrote, under ONNX Runtime on the CPU.

    Args:
        path: the file.
        threads: that one run uses.

    Raises:
        ImportError: if ONNX Runtime is not installed.
        ValueError: if it cannot read the file, or this does not say how samples are read.
    """

    name: ClassVar[str] = "onnx"

    def __init__(self, path: Path, threads: int) -> None:
        import onnxruntime  # others run without it

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # errors are raised, too
        try:
            self.session = onnxruntime.InferenceSession(
                path.read_bytes(), options, providers=["CPUExecutionProvider"]
            )
        except OSError:
            raise
        except Exception as error:  # its own, which derive from nothing else
            raise ValueError(f"{path} is no ONNX file that can be read: {error}") from error
        self.told: dict[str, Any] = {
            key: json.loads(value)
            for key, value in self.session.get_modelmeta().custom_metadata_map.items()
            if key in {"classes", "modality"}
        }
        outputs = {output.name for output in self.session.get_outputs()}
        if missing := ({"classes", "modality"} - self.told.keys()) | ({"logits", "embeddings"} - outputs):
            raise ValueError(f"{path} has no {', '.join(sorted(missing))}: quantize writes them")

    @property
    def classes(self) -> list[str]:
        """What logits are of, in their order."""
        return self.told["classes"]

    def modality(self) -> Modality:
        """Make the modality whose samples it reads."""
        return modalities.build(self.told["modality"])

    def __call__(self, x: Tensor) -> Answer:
        return Answer(*self.session.run(["logits", "embeddings"], {"x": x.numpy()}))


def in_turns(runtimes: Mapping[str, Runtime], x: Tensor, warmup: int, rounds: int) -> dict[str, list[float]]:
    """Run contenders one after the other, again and again: what else the machine does falls on all alike.

    Args:
        runtimes: by name.
        x: a batch.
        warmup: rounds before time is taken.
        rounds: that are timed.

    Returns:
        What each round took of each [s].
    """
    taken: dict[str, list[float]] = {name: [] for name in runtimes}
    for turn in range(warmup + rounds):
        for name, runtime in runtimes.items():
            began = time.perf_counter()
            runtime(x)
            if turn >= warmup:
                taken[name].append(time.perf_counter() - began)
    return taken


def logits(runtime: Runtime, x: Tensor, batch_size: int) -> Float32[np.ndarray, "sample class"]:
    """Give the logits of many samples, batch by batch."""
    return np.concatenate([runtime(part).logits for part in x.split(batch_size)])
