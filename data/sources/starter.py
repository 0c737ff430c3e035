"""Starter data: what a machine without any dataset can learn from, out of installed packages.

Each source is real or spoken on the spot, the same on every run, and needs no network. What the
`raw` path of a source holds is not read; params.yaml lets it point to this file.
"""

import ast
import ctypes
import hashlib
import importlib.util
import io
import struct
import subprocess
import sys
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, final

import espeakng_loader
import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from winnow.data.sources.records import Record, Source
from winnow.data.stage import BadInput

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
# A voice is a variant of its own, so that no two voices share a timbre, with one of the accents.
# Left out are variants that whisper or play a robot, and those with breath (f2, f3, f5, Alicia, …):
# their noise is another one in every process.
VARIANTS = (
    *("m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "f1", "f4", "grandma", "paul"),
    *("Alex", "quincy", "Andrea", "Andy", "Annie", "Denis", "Diogo", "Gene", "Henrique", "Hugo"),
    *("Jacky", "Lee", "Marco", "Mario", "Michael", "Mike", "Nguyen", "adam", "anika", "belinda"),
    *("aunty", "boris", "david", "ed", "edward", "linda", "steph"),
)
ACCENTS = ("en-us", "en", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbcwmd")
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


class Utterance(NamedTuple):
    """What eSpeak NG is asked to say.

    Attributes:
        voice: accent and variant, as `en-us+f3`.
        word: the text.
        rate: speed [words per minute].
        pitch: 0 to 100.
    """

    voice: str
    word: str
    rate: int
    pitch: int


def utterance(number: int) -> Utterance:
    """Choose the utterance with a number: words change fastest, then voices, then manner."""
    variant = VARIANTS[number // len(WORDS) % len(VARIANTS)]
    accent = ACCENTS[number // len(WORDS) % len(VARIANTS) % len(ACCENTS)]
    # Multiples of an irrational number, modulo 1, spread evenly and never repeat.
    rate = 110 + int(110 * (number * 0.6180339887 % 1))
    pitch = 30 + int(40 * (number * 0.7548776662 % 1))
    return Utterance(f"{accent}+{variant}", WORDS[number % len(WORDS)], rate, pitch)


@final
class SpokenDigits(Source):
    """The ten digit words, spoken by eSpeak NG; the group is the voice.

    The speaker starts as a process of its own: eSpeak's noise goes on from one utterance to the
    next, so the same sounds come only from a fresh start and the same list.

    Args:
        utterances: how many.
    """

    def __init__(self, utterances: int) -> None:
        self.utterances = utterances

    def records(self, raw: Path, suffixes: frozenset[str]) -> Iterator[Record]:
        command = [sys.executable, "-m", "winnow.data.sources.starter", str(self.utterances)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as speaker:
            assert speaker.stdout is not None
            for number in range(self.utterances):
                header = speaker.stdout.read(8)
                if len(header) < 8:
                    break
                rate, size = struct.unpack("<II", header)
                said = utterance(number)
                source = f"spoken/{number:05}-{said.voice}-{said.word}.wav"
                sound = _wav(speaker.stdout.read(size), rate)
                yield Record(source, sound, None, said.word, None, said.voice)
        if speaker.returncode:
            raise BadInput(f"eSpeak NG stopped with exit status {speaker.returncode}, see above")


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


def _wav(pcm: bytes, rate: int) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(rate)
        writer.writeframes(pcm)
    return file.getvalue()


def _speak(utterances: int) -> None:
    """Say the first utterances; write each to standard output as rate, size and 16-bit samples."""
    synchronous, rate_parameter, pitch_parameter, utf8 = 2, 1, 3, 1  # of espeak-ng/speak_lib.h
    espeak = ctypes.CDLL(espeakng_loader.get_library_path())
    data = espeakng_loader.get_data_path().encode()
    rate_hz = espeak.espeak_Initialize(synchronous, 0, data, 0)
    if rate_hz <= 0:
        raise RuntimeError(f"eSpeak NG does not start with the data in {data!r}")
    heard = bytearray()

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
    def hear(samples: "ctypes._Pointer[ctypes.c_short]", count: int, _: int) -> int:
        if count:
            heard.extend(ctypes.string_at(samples, 2 * count))
        return 0

    espeak.espeak_SetSynthCallback(hear)
    for number in range(utterances):
        said = utterance(number)
        heard.clear()
        text = said.word.encode()
        for status in (
            espeak.espeak_SetVoiceByName(said.voice.encode()),
            espeak.espeak_SetParameter(rate_parameter, said.rate, 0),
            espeak.espeak_SetParameter(pitch_parameter, said.pitch, 0),
            espeak.espeak_Synth(text, ctypes.c_size_t(len(text) + 1), 0, 0, 0, utf8, None, None),
            espeak.espeak_Synchronize(),
        ):
            if status:
                raise RuntimeError(f"eSpeak NG cannot say {said}: error {status}")
        sys.stdout.buffer.write(struct.pack("<II", rate_hz, len(heard)) + heard)


if __name__ == "__main__":
    _speak(int(sys.argv[1]))
