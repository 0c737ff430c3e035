"""Time of the engine; each prints a Markdown table.

`python -m bench.engine kernels [--tokens 128]`
    share of the most products of bytes a second that one core can do, by kernel, size and sparsity
`python -m bench.engine encoders [--tokens 128] [--batch 1] [--threads 1] [--rounds 15]`
    encoders shaped as DistilBERT, BERT-Base and BERT-Large, with random weights: time as a share of what
    DistilBERT takes in PyTorch fp32, and of what others take for the same shape
`python -m bench.engine encoders --tokens 128 384 --batch 1 8 --threads 1 2 --rounds 3`
    the same for each combination, and all of their shares in one table
`python -m bench.engine classifiers out/speech out/vision out/text [--threads 1] [--rounds 200]`
    the pipeline's own int8 classifiers, beside ONNX Runtime

All that is in a table runs in this process, in turns, so that what else the machine does falls on all alike;
medians. One thread is timed by the processor's clock, which does not count while others have the core;
several are by that on the wall. OpenVINO is measured too where it is installed.
"""

import argparse
import itertools
import statistics
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bench.latency import (
    OPENVINO,
    VOCABULARY,
    Run,
    clock_of,
    in_openvino,
    in_turns,
    machine,
    text_classifier,
)
from winnow.compress import export, integer
from winnow.compress.engine import plan, running
from winnow.compress.engine.classifier import EngineClassifier
from winnow.compress.engine.plan import Levels, Matrix, Norm
from winnow.compress.fakequant import fake_quantize
from winnow.compress.runtimes import OnnxRuntime

BLOCKS = {"1×4": (1, 4), "2×4": (2, 4), "4×4": (4, 4)}
SPARSITIES = (0.8, 0.9, 0.95)
SIZES = ((1024, 1024), (4096, 1024), (1024, 4096), (768, 768))


class Size(NamedTuple):
    """The shape of a published encoder."""

    dim: int
    layers: int
    heads: int


ENCODERS = {"DistilBERT": Size(768, 6, 12), "BERT-Base": Size(768, 12, 12), "BERT-Large": Size(1024, 24, 16)}


def drawn(
    rows: int, columns: int, block: tuple[int, int], sparsity: float, source: np.random.Generator
) -> Matrix:
    """Draw a matrix some of whose blocks are zero."""
    keep = source.random((rows // block[0], columns // block[1])) >= sparsity
    weight = source.integers(-63, 64, (rows, columns)).astype(np.int8)  # 7 bits, as in params.yaml
    weight *= np.repeat(np.repeat(keep, block[0], 0), block[1], 1)
    scale = np.full(rows, 1 / (73 * np.sqrt(columns * (1 - sparsity))), np.float32)
    return Matrix(weight, scale, np.zeros(rows, np.int32), Levels(0.03, 128))


def drawn_encoder(size: Size, tokens: int, block: tuple[int, int], sparsity: float) -> bytes:
    """Draw an encoder with attention of integers, as the engine reads it."""
    source, dim = np.random.default_rng(0), size.dim

    def matrix(rows: int, columns: int) -> Matrix:
        return drawn(rows, columns, block, sparsity, source)

    norm = Norm(np.ones(dim, np.float32), np.zeros(dim, np.float32))
    levels = Levels(0.03, 128)

    def layer() -> plan.Layer:
        wide = replace(matrix(dim, 4 * dim), input=Levels(0.015, 12))
        four = (matrix(dim, dim) for _ in range(4))
        return plan.Layer(*four, norm, matrix(4 * dim, dim), wide, norm, (levels, levels, levels))

    layers = [layer()] * size.layers  # in the engine's memory each has its own
    encoder = plan.Encoder(
        heads=size.heads, tokens=tokens, extra=0, pre_norm=False, eps=1e-12, layers=layers, first=norm
    )
    return plan.write(encoder, 0 if sparsity == 0 else block[0])


def others(size: Size, x: Tensor, threads: int, folder: Path) -> dict[str, Run]:
    """Give what else runs an encoder of this size: in floats and in int8."""
    model = text_classifier(x.shape[1], *size)

    def in_torch() -> object:
        with torch.inference_mode():
            return model(x)

    name, smallest = f"{size.dim}-{size.layers}-{x.shape[1]}", size.layers == 6
    paths = {"fp32": folder / f"{name}.onnx", "int8": folder / f"{name}-int8.onnx"}
    if smallest and not paths["fp32"].exists():  # all are compared with its floats, and with nobody else's
        export.to_onnx(model, x.repeat(2, 1), paths["fp32"])
    if not paths["int8"].exists():
        quantized = text_classifier(x.shape[1], *size)
        fake_quantize(quantized)
        with torch.no_grad():
            quantized.train()(x[:1])
        export.to_onnx(integer.to_integers(quantized), x.repeat(2, 1), paths["int8"])
    runs: dict[str, Run] = {"PyTorch fp32": in_torch} if smallest else {}
    feed = {"x": x.numpy()}
    for name, path in paths.items():
        if not path.exists():
            continue
        session = OnnxRuntime(path, threads).session
        runs[f"ONNX Runtime {name}"] = partial(session.run, None, feed)
        if OPENVINO:
            runs[f"OpenVINO {name}"] = in_openvino(path, x, threads)
    return runs


class Load(NamedTuple):
    """What encoders are given to do."""

    tokens: int
    batch: int
    threads: int

    def __str__(self) -> str:
        return f"{self.tokens} tokens, batch {self.batch}, {self.threads} thread(s)"


def encoders(names: list[str], loads: list[Load], rounds: int) -> None:
    """Compare encoders with DistilBERT in PyTorch fp32, and with the same shape in dense int8."""
    shares: dict[Load, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for load in loads:
            found_s = encode(names, load, rounds, Path(folder))
            first = found_s.get("DistilBERT | PyTorch fp32")
            print(f"\n{load}; {machine()}\n")
            print("| encoder | runtime | ms | of DistilBERT, PyTorch fp32 | of the same, ONNX Runtime int8 |")
            print("|---|---|---:|---:|---:|")
            for name, seconds in found_s.items():
                own = found_s[name.split(" | ")[0] + " | ONNX Runtime int8"]
                share = f"{seconds / first:.3f}" if first else "–"
                print(f"| {name} | {1000 * seconds:.2f} | {share} | {seconds / own:.3f} |", flush=True)
            if first:
                shares[load] = {name: seconds / first for name, seconds in found_s.items()}
    if len(shares) > 1:
        print_shares(shares)


def print_shares(shares: Mapping[Load, Mapping[str, float]]) -> None:
    """Print what each takes of DistilBERT in PyTorch fp32 under the same load, one column a load."""
    print("\nShare of what DistilBERT takes in PyTorch fp32 under the same load\n")
    print("| encoder | runtime | " + " | ".join(map(str, shares)) + " |")
    print("|---|---|" + "---:|" * len(shares))
    for name in next(iter(shares.values())):
        print(f"| {name} | " + " | ".join(f"{found[name]:.3f}" for found in shares.values()) + " |")


def encode(names: list[str], load: Load, rounds: int, folder: Path) -> dict[str, float]:
    """Time all contenders under one load [s]; the folder keeps ONNX files for the next."""
    tokens, batch, threads = load
    torch.set_num_threads(threads)
    x = torch.randint(1, VOCABULARY, (batch, tokens), generator=torch.Generator().manual_seed(0))
    embedded = np.random.default_rng(0).normal(size=(batch, tokens, 1024)).astype(np.float32)
    valid = np.ones((batch, tokens), bool)
    runs: dict[str, Run] = {}
    for name in names:
        found = others(ENCODERS[name], x, threads, folder)
        runs |= {f"{name} | {runtime}": run for runtime, run in found.items()}
    for name in names:
        size, settings = ENCODERS[name], [("dense", (4, 4), 0.0)]
        settings += [(f"{label} {s:.0%}", block, s) for label, block in BLOCKS.items() for s in SPARSITIES]
        for label, block, sparsity in settings:
            engine = running.Engine(drawn_encoder(size, tokens, block, sparsity), threads)
            inputs = np.ascontiguousarray(embedded[..., : size.dim])
            runs[f"{name} | engine {label}"] = partial(engine.tokens, inputs, valid)
    # One turn to warm up: the largest take seconds each.
    return in_turns(runs, rounds, clock_of(threads), warmup=1)


def kernels(tokens: int, rounds: int) -> None:
    """Compare each kernel with what the processor can do at most."""
    source, peak = np.random.default_rng(0), running.peak()
    print(f"\n{tokens} tokens, share of the peak that products of what is not zero reach; {machine()}\n")
    settings = [("dense", (4, 4), 0.0)]
    settings += [(f"{label} {s:.0%}", block, s) for label, block in BLOCKS.items() for s in SPARSITIES]
    print("| rows × columns | " + " | ".join(label for label, _, _ in settings) + " |")
    print("|---|" + "---:|" * len(settings))
    for rows, columns in SIZES:
        x = source.integers(0, 256, (tokens, columns)).astype(np.uint8)
        shares = []
        for _, block, sparsity in settings:
            matrix = drawn(rows, columns, block, sparsity, source)
            layout = plan.DENSE if sparsity == 0 else block[0]
            _, seconds = running.product(matrix, x, layout, repeats=rounds)
            work = tokens * (1 - sparsity) * rows * columns
            shares.append(f"{work / statistics.median(seconds) / peak:.0%}")
        print(f"| {rows} × {columns} | " + " | ".join(shares) + " |")


def classifiers(folders: list[Path], threads: int, rounds: int) -> None:
    """Compare the pipeline's own models with ONNX Runtime, from samples to logits."""
    torch.set_num_threads(threads)
    print(f"\n{threads} thread(s); {machine()}\n")
    print("| model | batch | ONNX Runtime ms | engine ms | ratio |")
    print("|---|---:|---:|---:|---:|")
    for folder in folders:
        model = integer.load(folder / "quantize")
        grid = model.encoder.modality.grid
        engine = EngineClassifier(model, threads)
        onnx = OnnxRuntime(folder / "quantize" / "model.onnx", threads)
        shape = [side if isinstance(side, int) else 0 for side in onnx.session.get_inputs()[0].shape]
        whole = onnx.session.get_inputs()[0].type == "tensor(int64)"
        for batch in (1, 32):
            sizes = (batch, *shape[1:])
            x = torch.randint(1, 200, sizes) if whole else torch.rand(sizes)
            runs: dict[str, Run] = {"onnx": partial(onnx, x), "engine": partial(engine, x)}
            found = in_turns(runs, rounds, clock_of(threads))
            ratio = found["engine"] / found["onnx"]
            times = " | ".join(f"{1000 * found[name]:.3f}" for name in runs)
            print(f"| {folder.name}, {int(np.prod(grid))} tokens | {batch} | {times} | {ratio:.2f} |")


def main() -> None:
    """Run one of the measurements."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["kernels", "encoders", "classifiers"])
    parser.add_argument(
        "folders", nargs="*", type=Path, help="of the pipeline's results, one for each modality"
    )
    parser.add_argument("--encoders", nargs="+", choices=ENCODERS, default=list(ENCODERS))
    parser.add_argument("--tokens", type=int, nargs="+", default=[128])
    parser.add_argument("--batch", type=int, nargs="+", default=[1])
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--rounds", type=int, default=15)
    given = parser.parse_args()
    if given.what == "kernels":
        for tokens in given.tokens:
            kernels(tokens, given.rounds)
    elif given.what == "encoders":
        loads = [Load(*load) for load in itertools.product(given.tokens, given.batch, given.threads)]
        encoders(given.encoders, loads, given.rounds)
    else:
        for threads in given.threads:
            classifiers(given.folders, threads, given.rounds)


if __name__ == "__main__":
    main()
