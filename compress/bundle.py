"""A model in one file: `.winnow`, a zip of packed weights, how samples are read, classes and model card.

What is in it, and how it is read without this project, stands in docs/bundle.md.
"""

import json
import tempfile
import zipfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from winnow.compress import integer, packing, parts
from winnow.ssl.model import Classifier

FORMAT = 1
CONFIG, CARD, WEIGHTS, FILES = "config.json", "card.json", "weights", "files/"

_DERIVED = ".bias_scale"  # input_scale · weight_scale, in float32
_MOST_TEXT = 1 << 26  # bytes of an entry that is compressed
_CODE = "winnow.data."  # where classes lie that a file may name
_MOST_TIMES = 64  # weights that an architecture has for each byte that is there
_MOST_NUMBER = 1 << 20  # of what a kind of data is made with: a rate, a length, a vocabulary


class Bundle(NamedTuple):
    """What a file holds.

    Attributes:
        model: the int8 classifier.
        card: what is known of it, as plain JSON.
    """

    model: Classifier
    card: dict[str, Any]


def weights(model: Classifier, code: bool = True) -> bytes:
    """Pack an int8 classifier's tensors, part by part of the ledger.

    Args:
        model: of `winnow.compress.integer`.
        code: see `packing.pack`.
    """
    tensors = {name: t.numpy() for name, t in model.state_dict().items() if not name.endswith(_DERIVED)}
    groups = {name: parts.part(name, model) or "" for name in tensors}
    return packing.pack(tensors, groups, code)


def write(directory: Path, card: Mapping[str, Any], path: Path) -> None:
    """Write the int8 classifier of a folder of `quantize` as one file, a function of what goes in.

    Args:
        directory: holds `quantized.safetensors` and `config.json`.
        card: what should be known of it, as plain JSON.
        path: ends in `.winnow`.

    Raises:
        RuntimeError: if the file gives back another model.
    """
    config = json.loads((directory / CONFIG).read_text(encoding="utf-8"))
    model = integer.load(directory)
    sources = {name: Path(config["modality"]["init_args"][name]) for name in model.encoder.modality.files}
    for name, source in sources.items():
        config["modality"]["init_args"][name] = FILES + source.name
    config = {"format": FORMAT, "winnow": version("winnow"), **config}
    with zipfile.ZipFile(path, "w") as file:
        _add(file, CONFIG, _json(config))
        _add(file, CARD, _json(card))
        for source in sources.values():
            _add(file, FILES + source.name, source.read_bytes())
        _add(file, WEIGHTS, weights(model), zipfile.ZIP_STORED)
    again = load(path).model.state_dict()
    if any(not torch.equal(tensor, again[name]) for name, tensor in model.state_dict().items()):
        raise RuntimeError(f"{path} gives back another model than was put in")


def _json(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True, allow_nan=False, ensure_ascii=False).encode()


def _add(file: zipfile.ZipFile, name: str, content: bytes, how: int = zipfile.ZIP_DEFLATED) -> None:
    entry = zipfile.ZipInfo(name)  # of 1980: when it was written is nobody's business
    entry.external_attr = 0o644 << 16
    file.writestr(entry, content, how, 9)


def load(path: Path) -> Bundle:
    """Read a file that `write` wrote.

    Raises:
        ValueError: if it is damaged, or not such a file; the message names it.
        OSError: if it cannot be read at all.
    """
    with path.open("rb") as stream:
        try:
            with zipfile.ZipFile(stream) as file, tempfile.TemporaryDirectory() as place:
                return _load(file, Path(place))
        except Exception as error:  # what broken zips, texts and numbers raise is of many kinds
            reason = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
            raise ValueError(f"{path} is no bundle that can be read: {reason}") from error


def _load(file: zipfile.ZipFile, place: Path) -> Bundle:
    config = json.loads(_entry(file, CONFIG))
    made, _ = config.pop("format"), config.pop("winnow")
    if made != FORMAT:
        raise ValueError(f"its format is {made!r}, this version reads {FORMAT}")
    tensors = packing.unpack(_entry(file, WEIGHTS))
    for name in [name for name in tensors if name.endswith(".bias")]:
        owner = name.removesuffix(".bias")
        if f"{owner}.input_scale" in tensors:
            tensors[owner + _DERIVED] = tensors[f"{owner}.input_scale"] * tensors[f"{owner}.weight_scale"]
    _require_plausible(config, tensors)
    told = config["modality"]["init_args"]
    for key, value in told.items():
        if isinstance(value, str) and value.startswith(FILES):
            local = place / Path(value).name
            local.write_bytes(_entry(file, value))
            told[key] = str(local)
    model = integer.build(config, {name: torch.from_numpy(array) for name, array in tensors.items()})
    return Bundle(model, json.loads(_entry(file, CARD)))


def _entry(file: zipfile.ZipFile, name: str) -> bytes:
    """Read an entry whole: what is compressed might be without end."""
    entry = file.getinfo(name)
    if entry.compress_type != zipfile.ZIP_STORED and entry.file_size > _MOST_TEXT:
        raise ValueError(f"{name} is of {entry.file_size} bytes, more than {_MOST_TEXT}")
    return file.read(entry)


def _require_plausible(config: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> None:
    """Make sure that the network is about as large as its tensors, before memory is spent on it."""
    if not config["modality"]["class_path"].startswith(_CODE):
        raise ValueError(f"{config['modality']['class_path']!r} is no kind of data of this project")
    for key, value in config["modality"]["init_args"].items():
        if isinstance(value, int | float) and not abs(value) <= _MOST_NUMBER:
            raise ValueError(f"{key} is {value}, beyond {_MOST_NUMBER}")
    shape, there = config["shape"], sum(array.nbytes for array in tensors.values())
    dim = shape["dim"]
    weights = shape["layers"] * dim * (4 + 2 * shape["mlp_ratio"]) * dim
    if "slices" in shape:
        weights = sum(
            dim * (4 * dim * len(size["heads"]) / shape["heads"] + 2 * size["channels"])
            for size in shape["slices"]
        )
    needed = weights + dim * len(config["classes"])
    if not 0 < needed <= _MOST_TIMES * there:
        raise ValueError(f"{needed:.0f} weights are told of, and {there} bytes are there")
