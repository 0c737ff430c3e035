"""Small learnable datasets, one per modality, laid out the way users have theirs."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import soundfile
from hypothesis import settings
from PIL import Image
from sklearn.datasets import load_digits

from winnow.data import ingest
from winnow.data.engine import Engine
from winnow.data.modality import Modality, build
from winnow.data.sources.files import Folder
from winnow.data.sources.records import Source
from winnow.data.sources.tables import Table

SAMPLES_PER_CLASS = 24

# The same cases in every run, however slow the machine: what fails here fails everywhere.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


class Kind(NamedTuple):
    """A modality under test: its section of params.yaml, and raw data that it can learn from."""

    name: str
    section: dict[str, Any]
    source: Source
    write: Callable[[Path], Path]


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def wav(samples: np.ndarray, rate: int = 8000, subtype: str = "PCM_16") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV", subtype=subtype)
    return file.getvalue()


def tone(hertz: float, seconds: float, rate: int = 8000, rise: float = 0.0, seed: int = 0) -> np.ndarray:
    """A tone that may rise, with harmonics and a little noise, as loud as speech."""
    time = np.arange(round(seconds * rate)) / rate
    phase = 2 * np.pi * hertz * (time + rise * time**2)
    noise = np.random.default_rng(seed).normal(0, 0.005, len(time))
    return 0.2 * np.sin(phase) + 0.1 * np.sin(2 * phase) + noise


def write_images(root: Path) -> Path:
    """Handwritten digits, a folder for each class."""
    digits = load_digits()
    for label in range(3):
        folder = root / f"digit-{label}"
        folder.mkdir(parents=True)
        for number, i in enumerate(np.flatnonzero(digits.target == label)[:SAMPLES_PER_CLASS]):
            image = png(np.round(digits.images[i] * 255 / 16).astype(np.uint8))
            (folder / f"{number:02}.png").write_bytes(image)
    return root


def write_recordings(root: Path) -> Path:
    """Tones that fall, stay or rise, from eight speakers of different pitch, with a table."""
    (root / "clips").mkdir(parents=True)
    lines = ["file,label,speaker"]
    for number in range(3 * SAMPLES_PER_CLASS):
        label, speaker = number % 3, number // 3 % 8
        seconds = 0.3 + 0.02 * (number // 24)
        hertz = 300 * 1.08**speaker
        sound = tone(hertz, seconds, rise=(label - 1) * 0.9, seed=number)
        (root / f"clips/{number:02}.wav").write_bytes(wav(sound))
        lines.append(f"clips/{number:02}.wav,{('fall', 'stay', 'rise')[label]},s{speaker}")
    (root / "labels.csv").write_text("\n".join(lines) + "\n")
    return root


def write_texts(root: Path) -> Path:
    """Sentences from three vocabularies that share their small words."""
    topics = {
        "sea": [
            "wave",
            "boat",
            "harbour",
            "fish",
            "tide",
            "sailor",
            "storm",
            "anchor",
            "salt",
            "island",
        ],
        "bread": [
            "flour",
            "oven",
            "dough",
            "yeast",
            "crust",
            "baker",
            "butter",
            "loaf",
            "grain",
            "knead",
        ],
        "chess": [
            "king",
            "queen",
            "rook",
            "bishop",
            "pawn",
            "castle",
            "check",
            "gambit",
            "board",
            "knight",
        ],
    }
    random = np.random.default_rng(0)
    rows = []
    for label, words in topics.items():
        for _ in range(SAMPLES_PER_CLASS):
            a, b, c, d = random.choice(words, 4, replace=False)
            rows.append({"text": f"The {a} and the {b} are with a {c}, near the {d}.", "label": label})
    root.mkdir(parents=True, exist_ok=True)
    path = root / "texts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


KINDS = [
    Kind(
        "vision",
        {
            "class_path": "winnow.data.vision.Vision",
            "init_args": {"size": 16, "patch": 4, "channels": 1},
        },
        Folder(labels="folders"),
        write_images,
    ),
    Kind(
        "speech",
        {
            "class_path": "winnow.data.speech.Speech",
            "init_args": {
                "sample_rate_hz": 8000,
                "seconds": 0.5,
                "mels": 16,
                "frames_per_token": 5,
            },
        },
        Table(table="labels.csv", path="file", label="label", group="speaker"),
        write_recordings,
    ),
    Kind(
        "text",
        {"class_path": "winnow.data.text.Text", "init_args": {"length": 24, "vocabulary": 512}},
        Table(text="text", label="label"),
        write_texts,
    ),
]


@pytest.fixture(scope="session", params=KINDS, ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> Kind:
    return request.param


@pytest.fixture(scope="session")
def modality(kind: Kind) -> Modality:
    return build(kind.section)


@pytest.fixture(scope="session")
def raw(kind: Kind, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The raw data of `kind`: 3 classes of 24 samples, to be read by `kind.source`."""
    return kind.write(tmp_path_factory.mktemp(kind.name) / "raw")


def run_ingest(kind: Kind, raw: Path, out: Path, engine: Engine = "local", workers: int = 1) -> Path:
    """Ingest what a kind of samples has written, with every split, and all labels as they came."""
    ingest.main(
        build(kind.section),
        raw,
        out,
        source=kind.source,
        splits=ingest.Splits(validation=0.2, test=0.2),
        min_class_size=2,
        max_rejects=0.0,
        label_noise=0.0,
        seed=0,
        engine=engine,
        workers=workers,
    )
    return out


@pytest.fixture(scope="session")
def ingested(kind: Kind, raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that `ingest` wrote: 72 labelled samples of 3 classes, 44 or so to train on."""
    return run_ingest(kind, raw, tmp_path_factory.mktemp(f"{kind.name}-out") / "ingest")
