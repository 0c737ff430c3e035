"""A bundle's int8 model → what runs it: the engine, torch or ONNX Runtime; by name, or the fastest."""

import hashlib
import logging
import tempfile
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from winnow.compress import choice
from winnow.compress.choice import Choice
from winnow.compress.engine import library
from winnow.compress.engine.classifier import EngineClassifier
from winnow.compress.runtimes import OnnxRuntime, TorchRuntime
from winnow.ssl.model import Classifier

RUNTIMES = ("auto", "engine", "onnx", "torch")

_log = logging.getLogger(__name__)


def serve(model: Classifier, file: Path, threads: int, runtime: str, batch_size: int) -> Choice:
    """Bring a model into what runs it.

    ONNX Runtime needs another form of it. That is made, in some seconds, when it is asked for by name,
    and kept in the cache's folder; from then on it is one of those that `auto` chooses from.

    Args:
        model: that the bundle holds.
        file: the bundle.
        threads: of the runtime.
        runtime: one of `RUNTIMES`; `auto` is the fastest, measured on samples that fill the grid.
        batch_size: samples of a batch while that is measured.

    Raises:
        ValueError: if there is no such runtime, or it has no form for a part of the model.
        ImportError: if ONNX Runtime is asked for and not installed.
        library.Unavailable: if the engine is asked for and cannot be built here.
    """
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    form = library.cache_folder() / f"model-{digest[:16]}.onnx"
    openers: choice.Openers = {
        "engine": partial(EngineClassifier, model, threads),
        "onnx": partial(OnnxRuntime, form, threads),
        "torch": partial(TorchRuntime, model),
    }
    if runtime == "auto":
        here = {name: make for name, make in openers.items() if name != "onnx" or form.exists()}
        return choice.fastest(here, drawn(model, batch_size), {"file": digest, "threads": threads})
    if runtime not in openers:
        raise ValueError(f"runtime must be one of {', '.join(RUNTIMES)}, not {runtime!r}")
    if runtime == "onnx" and not form.exists():
        write_onnx(model, form)
    return Choice(openers[runtime](), {})


def drawn(model: Classifier, number: int) -> Tensor:
    """Draw samples that fill the grid, the same each time."""
    generator = torch.Generator().manual_seed(0)
    return torch.stack([model.encoder.modality.draw(generator) for _ in range(number)])


def write_onnx(model: Classifier, path: Path) -> None:
    """Make a model's ONNX form, which stands at its place when it is complete."""
    from winnow.compress import export  # needs packages that nothing else in here does, and seconds to start

    _log.info("the model's ONNX form is made, once: %s", path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".model-") as scratch:
        export.to_onnx(model, drawn(model, 2), Path(scratch, path.name))
        Path(scratch, path.name).replace(path)
