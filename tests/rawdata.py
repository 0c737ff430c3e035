"""Raw data as users have it: files, tables, shards, and the layouts that dataset libraries expect."""

import csv
import gzip
import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from conftest import png, tone, wav

from winnow.data.sources.records import Record, Source

PNG = frozenset({".png", ".jpg"})
TXT = frozenset({".txt"})
WAV = frozenset({".wav"})
CLOTHES = ("T-shirt/top", "Trouser", "Pullover")


def read(source: Source, raw: Path, suffixes: frozenset[str] = TXT) -> list[Record]:
    return list(source.records(raw, suffixes))


def reasons(records: Iterable[Record]) -> dict[str, str]:
    return {r.source: r.reason for r in records if r.reason is not None}


def files(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"content of {name}")
    return root


def write_csv(path: Path, *rows: tuple[str, ...], **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", **options) as file:
        csv.writer(file).writerows(rows)
    return path


def picture(number: int, side: int = 28) -> np.ndarray:
    """Some grey image that is like no other."""
    return np.random.default_rng(number).integers(0, 256, (side, side), dtype=np.uint8)


def write_idx(root: Path, train: int = 9, test: int = 6) -> Path:
    """Fashion-MNIST as torchvision unpacks it, with fewer images."""
    folder = root / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    for prefix, count in (("train", train), ("t10k", test)):
        pixels = np.stack([picture(number) for number in range(count)])
        header = np.array([0x803, *pixels.shape], dtype=">i4").tobytes()
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(header + pixels.tobytes())
        labels = (np.arange(count) % len(CLOTHES)).astype(np.uint8)
        header = np.array([0x801, count], dtype=">i4").tobytes()
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(header + labels.tobytes())
    return root


def write_commands(root: Path) -> Path:
    """Speech Commands as torchaudio unpacks it: two words of four speakers, the lists, and noise."""
    folder = root / "SpeechCommands" / "speech_commands_v0.02"
    for number, speaker in enumerate(("0a", "0b", "0c", "0d")):
        for word in ("yes", "no"):
            path = folder / word / f"{speaker}_nohash_0.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(wav(tone(200 + 50 * number, 0.4, 16000, seed=number), 16000))
    (folder / "_background_noise_").mkdir()
    (folder / "_background_noise_" / "rain.wav").write_bytes(wav(tone(100, 1), 16000))
    (folder / "validation_list.txt").write_text("yes/0c_nohash_0.wav\nno/0c_nohash_0.wav\n")
    (folder / "testing_list.txt").write_text("yes/0d_nohash_0.wav\nno/0d_nohash_0.wav\n")
    return root


def write_tar(path: Path, members: Mapping[str, bytes | str | None]) -> Path:
    """A shard of files, of folders (None), and of links, given as `-> target`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            if content is None:
                info.type = tarfile.DIRTYPE
            elif isinstance(content, str) and content.startswith("-> "):
                info.type, info.linkname = tarfile.SYMTYPE, content[3:]
            else:
                content = content.encode() if isinstance(content, str) else content
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
                continue
            tar.addfile(info)
    zipped = path.suffix in (".gz", ".tgz")
    path.write_bytes(gzip.compress(file.getvalue()) if zipped else file.getvalue())
    return path


def write_shards(root: Path) -> Path:
    """Images with a class as a number, a group in JSON: two shards to train on, one to test."""
    for shard in ("train-000", "train-001", "test-000"):
        members = {}
        for number in range(6):
            members[f"{number:03}.png"] = png(picture(hash_free(shard) + number))
            members[f"{number:03}.cls"] = str(number % 2)
            members[f"{number:03}.json"] = json.dumps({"group": f"camera {number // 2}"})
        write_tar(root / f"{shard}.tar", members)
    return root


def hash_free(name: str) -> int:
    """A number for a name that is the same in every process."""
    return int.from_bytes(name.encode()[:6], "big") % 10_000
