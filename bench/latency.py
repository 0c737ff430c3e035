"""How contenders are timed: in one process and in turns, so that what else the machine does falls on all."""

import os
import random
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from examples.real import PROJECT
from winnow.compress import choice
from winnow.compress.engine import running
from winnow.data.text import Text
from winnow.ssl.model import Classifier
from winnow.ssl.shape import Shape
from winnow.ssl.trunk import Encoder

WARMUP = 2
VOCABULARY = 1000  # small: embeddings are no part of what is compared
OPENVINO = find_spec("openvino") is not None

Run = Callable[[], object]


def in_turns(
    runs: Mapping[str, Run], rounds: int, clock: Callable[[], float], warmup: int = WARMUP
) -> dict[str, float]:
    """Run contenders again and again, each time in another order; give the median of each [s].

    Who follows another runtime finds the caches full of what is not its own.
    """
    taken: dict[str, list[float]] = {name: [] for name in runs}
    order, dice = list(runs), random.Random(0)
    for turn in range(warmup + rounds):
        dice.shuffle(order)
        for name in order:
            began = clock()
            runs[name]()
            if turn >= warmup:
                taken[name].append(clock() - began)
    return {name: statistics.median(times) for name, times in taken.items()}


def clock_of(threads: int) -> Callable[[], float]:
    """Choose what tells the time: the processor's clock stands still while others have the core."""
    return time.process_time if threads == 1 else time.perf_counter


def in_openvino(path: Path, x: Tensor, threads: int) -> Run:
    """Bring an ONNX file into OpenVINO; without the hint it would take bfloat16 for float32."""
    import openvino

    config: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    request = openvino.Core().compile_model(path, "CPU", config).create_infer_request()
    return partial(request.infer, [x.numpy()])


def text_classifier(tokens: int, dim: int, layers: int, heads: int) -> Classifier:
    """Make a classifier of texts as params.yaml has it, of another size, with random weights."""
    numbers = yaml.safe_load((PROJECT / "params.yaml").read_text(encoding="utf-8"))
    switches = numbers["text"]["pretrain"]["model"]["shape"]
    shape = Shape(**{**switches, "dim": dim, "layers": layers, "heads": heads})
    torch.manual_seed(0)
    return Classifier(Encoder(Text(length=tokens, vocabulary=VOCABULARY), shape), ["a", "b"]).eval()


def machine() -> str:
    """Say what the machine is, what it can do, and how busy it is."""
    peak = f"peak {running.peak() / 1e9:.0f} G products/s"
    sets, absent = "/".join(running.instructions()), "" if OPENVINO else "; no OpenVINO here"
    return f"{choice.machine()['processor']}, {sets}, {peak}, load {os.getloadavg()[0]:.1f}{absent}"
