"""Starter data: what a machine without any dataset can learn from, out of installed packages.

Each source is real or spoken on the spot, the same on every run, and needs no network. What the
`raw` path of a source holds is not read; params.yaml lets it point to this file.
"""

import ast
import hashlib
import importlib.util
import io
from collections.abc import Iterator
from pathlib import Path
from typing import final

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from winnow.data.sources.records import Record, Source
from winnow.data.sources.speaking import Utterance, spoken, spread, voice
from winnow.data.stage import BadInput

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_MIN_CHARACTERS = 400  # a shorter docstring says too little to tell libraries apart


@final
class Digits(Source):
    """1,797 handwritten digits of scikit-learn: grey images of 8×8 pixels, ten classes."""

    def records(self, raw: Path, suffixes: frozenset[str]) -> Iterator[Record]:
        digits = load_digits()
        for number, (pixels, digit) in enumerate(zip(digits.images, digits.target, strict=True)):
            png = io.BytesIO()
            # The 17 levels of ink become black to white.
            Image.fromarray(np.round(pixels * 255 / 16).astype(np.uint8)).save(png, "PNG")
            yield Record(f"digits/{number:04}.png", png.getvalue(), None, str(digit), None, None)


def utterance(number: int) -> Utterance:
    """Choose the utterance with a number: words change fastest, then voices, then manner."""
    rate, pitch = spread(number, 0.6180339887, 110, 110), spread(number, 0.7548776662, 30, 40)
    return Utterance(voice(number // len(WORDS)), WORDS[number % len(WORDS)], rate, pitch)


@final
class SpokenDigits(Source):
    """The ten digit words, spoken by eSpeak NG; the group is the voice.

    Args:
        utterances: how many.
    """

    def __init__(self, utterances: int) -> None:
        self.utterances = utterances

    def records(self, raw: Path, suffixes: frozenset[str]) -> Iterator[Record]:
        said = [utterance(number) for number in range(self.utterances)]
        for number, (one, sound) in enumerate(zip(said, spoken(said), strict=True)):
            source = f"spoken/{number:05}-{one.voice}-{one.text}.wav"
            yield Record(source, sound, None, one.text, None, one.voice)


@final
class Docstrings(Source):
    """Docstrings of installed libraries, read from their source files; the label is the library.

    The group is the file, in which one function's text is copied for the next. Exact duplicates are left
    out, near-duplicates are not.

    Args:
        libraries: names to import them by; nothing is imported.
        limit_per_class: the most docstrings of one library; its files are read in the order of a hash of
            their names, until there are enough.
    """

    def __init__(self, libraries: list[str], limit_per_class: int) -> None:
        self.libraries, self.limit_per_class = libraries, limit_per_class

    def records(self, raw: Path, suffixes: frozenset[str]) -> Iterator[Record]:
        seen: set[bytes] = set()
        for library in self.libraries:
            left = self.limit_per_class
            for source, text in _docstrings(library):
                digest = hashlib.blake2b(" ".join(text.lower().split()).encode()).digest()
                if digest in seen:
                    continue
                seen.add(digest)
                yield Record(source, text.encode(), None, library, None, source.partition("#")[0])
                left -= 1
                if not left:
                    break


def _docstrings(library: str) -> Iterator[tuple[str, str]]:
    spec = importlib.util.find_spec(library)
    if spec is None or not spec.submodule_search_locations:
        raise BadInput(f"library {library!r} is not an installed package")
    root = Path(spec.submodule_search_locations[0])
    names = (path.relative_to(root) for path in root.rglob("*.py"))
    tested = ("test", "_test", "conftest")
    wanted = [name for name in names if not any(part.startswith(tested) for part in name.parts)]
    # Parsing takes long: a part of the files will do, if it is one of the whole library.
    for name in sorted(wanted, key=lambda name: hashlib.blake2b(name.as_posix().encode()).digest()):
        for definition, node in _definitions(ast.parse((root / name).read_bytes()), ""):
            text = ast.get_docstring(node)
            if text and len(text) >= _MIN_CHARACTERS:
                yield f"{library}/{name.as_posix()}#{definition or 'module'}", text


_Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def _definitions(node: _Documented, name: str) -> Iterator[tuple[str, _Documented]]:
    yield name, node
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _definitions(child, f"{name}.{child.name}".lstrip("."))
