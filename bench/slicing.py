"""Time of fewer heads, channels and layers; prints a Markdown table.

`python -m bench.slicing [--size small] [--variants NAME …] [--batch 1 32] [--rounds 15]`
    an encoder of the pipeline's size (`small`), or two layers of DistilBERT's (`large`), with random weights:
    whole, with half the heads and half the channels, with half the layers, with half of all three; time of
    the processor, and how many times as fast as the first one in the same runtime

All of a table runs in this process, on one thread and in turns, so that what else the machine does falls on
all alike; medians of `time.process_time`. The engine is left out where it cannot be built.
"""

import argparse
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from bench.latency import VOCABULARY, Run, in_turns, text_classifier
from winnow.compress import export, integer, slicing
from winnow.compress.depth import shallower
from winnow.compress.engine import library
from winnow.compress.engine.classifier import EngineClassifier
from winnow.compress.fakequant import fake_quantize
from winnow.compress.runtimes import OnnxRuntime, Runtime, TorchRuntime
from winnow.compress.slicing import Slicing
from winnow.ssl.model import Classifier

HALVES = Slicing(score="magnitude", samples=1, scope="layer", multiple=8)


class Size(NamedTuple):
    """What is measured."""

    dim: int
    layers: int
    heads: int
    tokens: int


SIZES = {"small": Size(96, 4, 4, 48), "large": Size(768, 2, 12, 128)}
VARIANTS = ("whole", "half the heads and channels", "half the layers", "half of all three")


def smaller(size: Size, variant: str) -> Classifier:
    """Make the same with less of it."""
    model = text_classifier(size.tokens, size.dim, size.layers, size.heads)
    if variant in VARIANTS[2:]:
        model.encoder = shallower(model.encoder, list(range(0, size.layers, 2)))
    if variant in VARIANTS[1::2]:
        importance = slicing.magnitude(model.encoder)
        model.encoder = slicing.sliced(model.encoder, importance, HALVES, heads=0.5, channels=0.5)
    return model


def runtimes(size: Size, variant: str, folder: Path) -> dict[str, Runtime]:
    """Give what runs a variant, by name."""
    samples, path = drawn(size, 2), folder / "model.onnx"
    model, quantized = smaller(size, variant), smaller(size, variant)
    export.to_onnx(model, samples, path)
    found: dict[str, Runtime] = {
        "PyTorch fp32": TorchRuntime(model),
        "ONNX Runtime fp32": OnnxRuntime(path, 1),
    }
    fake_quantize(quantized)
    with torch.no_grad():
        quantized.train()(samples)
    integers = integer.to_integers(quantized)
    export.to_onnx(integers, samples, path)
    found["ONNX Runtime int8"] = OnnxRuntime(path, 1)
    try:
        found["engine int8"] = EngineClassifier(integers, 1)
    except library.Unavailable as missing:
        print(f"the engine is not measured: {missing}")
    return found


def drawn(size: Size, batch: int) -> Tensor:
    """Draw texts."""
    return torch.randint(1, VOCABULARY, (batch, size.tokens), generator=torch.Generator().manual_seed(0))


def main() -> None:
    """Measure one size."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--variants", choices=VARIANTS, nargs="+", default=list(VARIANTS))
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--rounds", type=int, default=15)
    given = parser.parse_args()
    torch.set_num_threads(1)
    size = SIZES[given.size]
    print(f"\n{size.layers} layers of {size.dim}, {size.heads} heads, {size.tokens} tokens, one thread\n")
    with tempfile.TemporaryDirectory() as folder:
        contenders = {
            f"{variant} | {name}": runtime
            for variant in given.variants
            for name, runtime in runtimes(size, variant, Path(folder)).items()
        }
    for batch in given.batch:
        x = drawn(size, batch)
        runs: dict[str, Run] = {name: partial(runtime, x) for name, runtime in contenders.items()}
        found_s = in_turns(runs, given.rounds, time.process_time)
        names = list(dict.fromkeys(run.split(" | ")[1] for run in runs))
        print(f"| batch {batch}: ms (times as fast) | " + " | ".join(names) + " |")
        print("|---|" + "---:|" * len(names))
        for variant in given.variants:
            taken = [
                (found_s[f"{variant} | {name}"], found_s[f"{given.variants[0]} | {name}"]) for name in names
            ]
            cells = [f"{1000 * own:.2f} ({first / own:.2f})" for own, first in taken]
            print(f"| {variant} | " + " | ".join(cells) + " |")
        print(flush=True)


if __name__ == "__main__":
    main()
