"""A bundle or an ONNX file, and raw images, recordings or texts → classes, probabilities, embeddings.

From Python:

    from winnow.compress.predict import load
    model = load("model.winnow")
    found = model(["one.png", "two.png"])       # or bytes, or texts, where a model reads texts
    found.classes, found.probs, found.embedding

On the command line:

    python -m winnow.compress.predict model.winnow photo.png other.jpg --top 3
    echo 'sum of array elements' | python -m winnow.compress.predict model.winnow - --lines --json

Of what can run the network (the engine, torch, ONNX Runtime) the fastest does, unless one is named.
"""

import argparse
import json
import logging
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from winnow.compress import bundle
from winnow.compress.engine.library import Unavailable
from winnow.compress.runtimes import OnnxRuntime, Runtime
from winnow.compress.serving import RUNTIMES, serve
from winnow.data.modality import Modality, Reject

Raw = bytes | str | Path


class Unreadable(ValueError):
    """A datum that a model cannot read.

    Args:
        name: which.
        reason: why.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.reason = reason


class Prediction(NamedTuple):
    """What a model says of some data, in their order.

    Attributes:
        classes: the likeliest of each.
        probs: of each of the model's classes, in the order of `Predictor.classes` [0–1].
        embedding: what the classes are told from: the mean token of the last layer.
    """

    classes: list[str]
    probs: Float32[np.ndarray, "sample class"]
    embedding: Float32[np.ndarray, "sample dim"]


class Predictor:
    """Reads raw data as the model's training did, and predicts.

    Args:
        modality: what data are.
        classes: in the order of the logits.
        runtime: runs the network.
        card: what is known of the model; empty for an ONNX file.
        median_ms: what a batch took in each of the runtimes that this one was chosen from, by name.
    """

    def __init__(
        self,
        modality: Modality,
        classes: list[str],
        runtime: Runtime,
        card: dict[str, Any],
        median_ms: Mapping[str, float] | None = None,
    ) -> None:
        self.modality, self.classes, self.runtime, self.card = modality, classes, runtime, card
        self.median_ms = dict(median_ms or {})

    @property
    def runtime_name(self) -> str:
        """What runs the network: engine, onnx or torch."""
        return self.runtime.name

    @property
    def reads_texts(self) -> bool:
        return self.modality.media_type.startswith("text/")

    def read(self, raw: Raw) -> Tensor:
        """Turn one raw datum into what the network reads.

        Args:
            raw: its bytes, or the file that holds them; a `str` is the text itself if the model reads texts,
                else a path.

        Raises:
            Unreadable: if there is no such file, or it holds nothing that the model can read.
        """
        name = "the datum" if isinstance(raw, bytes) else str(raw)
        try:
            if isinstance(raw, bytes):
                content = raw
            elif isinstance(raw, str) and self.reads_texts:
                name, content = "the text", raw.encode()
            else:
                content = Path(raw).read_bytes()
            return self.modality.load(self.modality.decode(content).payload)
        except Reject as error:
            raise Unreadable(name, str(error)) from error
        except OSError as error:
            raise Unreadable(name, error.strerror or str(error)) from error

    def predict(self, x: Tensor) -> Prediction:
        """Run what `read` gave, stacked to a batch."""
        logits, embedding = self.runtime(x)
        exponential = np.exp(logits - logits.max(1, keepdims=True))
        probs = exponential / exponential.sum(1, keepdims=True)
        return Prediction([self.classes[i] for i in logits.argmax(1)], probs, embedding)

    def __call__(self, raw: Raw | Sequence[Raw], batch_size: int = 32) -> Prediction:
        """Predict one datum, or several.

        Args:
            raw: see `read`.
            batch_size: how many are run at a time: memory holds as many.

        Raises:
            Unreadable: if one of them cannot be read.
            ValueError: if there is none.
        """
        data = [raw] if isinstance(raw, bytes | str | Path) else raw
        if not data:
            raise ValueError("there is nothing to predict")
        found = [
            self.predict(torch.stack([self.read(one) for one in part])) for part in _cut(data, batch_size)
        ]
        return Prediction(
            [name for part in found for name in part.classes],
            np.concatenate([part.probs for part in found]),
            np.concatenate([part.embedding for part in found]),
        )


def _cut(data: Iterable[Any], size: int) -> Iterator[list[Any]]:
    part: list[Any] = []
    for one in data:
        part.append(one)
        if len(part) == size:
            yield part
            part = []
    if part:
        yield part


def load(
    path: Path | str, threads: int | None = None, runtime: str = "auto", batch_size: int = 1
) -> Predictor:
    """Read a model: a `.winnow` bundle, or an `.onnx` file of `quantize`, which runs in ONNX Runtime alone.

    Args:
        path: the file; what it is called decides.
        threads: of the runtime; of all of torch, where that is the runtime. None: as many as torch has now.
        runtime: one of `RUNTIMES`; `auto` is the fastest, as it is measured when a model is first loaded.
        batch_size: as many samples as will be asked about at a time: runtimes are compared at it.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged or something else, or cannot run in what is asked for.
        ImportError: if ONNX Runtime is needed and not installed.
        Unavailable: if the engine is asked for and cannot be built here.
    """
    path = Path(path)
    number = threads or torch.get_num_threads()
    if path.suffix == ".onnx":
        if runtime not in ("auto", "onnx"):
            raise ValueError(f"{path} runs in ONNX Runtime, not in {runtime!r}: that takes a bundle, .winnow")
        onnx = OnnxRuntime(path, number)
        return Predictor(onnx.modality(), onnx.classes, onnx, {})
    if threads is not None:
        torch.set_num_threads(threads)
    held = bundle.load(path)
    chosen = serve(held.model, path, number, runtime, batch_size)
    modality = held.model.encoder.modality
    return Predictor(modality, held.model.classes, chosen.runtime, held.card, chosen.median_ms)


def main(arguments: Sequence[str] | None = None) -> int:
    """Predict files from the command line, a line for each.

    Returns:
        0 if all could be read, 1 if some could not, 2 if the model could not.
    """
    asked = _parser().parse_args(arguments)
    # What is done only once, and takes its time, says so: the engine is compiled, runtimes are measured.
    logging.basicConfig(format="predict: %(message)s")
    logging.getLogger("winnow").setLevel(logging.INFO)
    alone = len(asked.files) == 1 and not asked.lines
    try:
        model = load(asked.model, asked.threads, asked.runtime, 1 if alone else asked.batch_size)
    except (OSError, ValueError, ImportError, Unavailable) as error:
        print(f"predict: {error}", file=sys.stderr)
        return 2
    if asked.card:
        runtime = {"name": model.runtime_name, "threads": asked.threads, "median_ms": model.median_ms}
        print(json.dumps({**model.card, "runtime": runtime}, indent=2, ensure_ascii=False))
    show = _as_json if asked.json else _as_text
    failed = False
    for part in _cut(_named(asked.files, asked.lines), asked.batch_size):
        read: list[tuple[str, Tensor]] = []
        for name, raw in part:
            try:
                read.append((name, model.read(raw)))
            except Unreadable as error:
                failed = True
                print(f"{name}: {error.reason}", file=sys.stderr)
        if read:
            found = model.predict(torch.stack([x for _, x in read]))
            for i, (name, _) in enumerate(read):
                order = (-found.probs[i]).argsort(kind="stable")[: asked.top]
                top = [(model.classes[k], float(found.probs[i, k])) for k in order]
                print(show(name, top, found.embedding[i] if asked.embedding else None), flush=True)
    return int(failed)


def _as_text(name: str, top: list[tuple[str, float]], embedding: np.ndarray | None) -> str:
    cells = [name, *(cell for word, prob in top for cell in (word, f"{prob:.4f}"))]
    return "\t".join(cells + ([] if embedding is None else [" ".join(f"{v:.6g}" for v in embedding)]))


def _as_json(name: str, top: list[tuple[str, float]], embedding: np.ndarray | None) -> str:
    told: dict[str, Any] = {"name": name, "class": top[0][0]}
    told["probs"] = {word: round(prob, 6) for word, prob in top}
    if embedding is not None:
        told["embedding"] = [round(float(value), 6) for value in embedding]
    return json.dumps(told, ensure_ascii=False)


def _named(files: Sequence[str], lines: bool) -> Iterator[tuple[str, Raw]]:
    """Give each datum a name: its file, or with its line."""
    for file in files:
        if not lines:
            yield file, sys.stdin.buffer.read() if file == "-" else Path(file)
        elif file != "-" and not Path(file).is_file():
            yield file, Path(file)  # which cannot be read, and is told of as any other
        else:
            with sys.stdin.buffer if file == "-" else Path(file).open("rb") as stream:
                for number, line in enumerate(stream, 1):
                    if line.strip():
                        yield f"{file}:{number}", line.rstrip(b"\r\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m winnow.compress.predict",
        description="Tell what images, recordings or texts are, by a model that winnow made.",
        epilog="A line for each file: its name, and the likeliest classes with their probabilities, between "
        "tabs. What cannot be read is told on stderr. Exit status: 0 if all could be read, 1 if some could "
        "not, 2 if the model could not.",
    )
    parser.add_argument("model", help="a .winnow bundle, or an .onnx file of the stage quantize")
    parser.add_argument("files", nargs="*", help="what to predict; - is standard input")
    parser.add_argument("--lines", action="store_true", help="each line of a file is a text of its own")
    parser.add_argument("--top", type=_positive, default=1, metavar="N", help="classes shown (%(default)s)")
    parser.add_argument("--json", action="store_true", help="a JSON object for each file")
    parser.add_argument("--embedding", action="store_true", help="show embeddings, too")
    parser.add_argument("--card", action="store_true", help="show what is known of the model, as JSON")
    parser.add_argument(
        "--batch-size", type=_positive, default=32, metavar="N", help="files run at a time (%(default)s)"
    )
    parser.add_argument(
        "--threads", type=_positive, default=1, metavar="N", help="of the runtime (%(default)s)"
    )
    parser.add_argument(
        "--runtime",
        choices=RUNTIMES,
        default="auto",
        help="what runs the network; auto measures once which is fastest here (%(default)s)",
    )
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {number}")
    return number


if __name__ == "__main__":
    sys.exit(main())
