"""What the dataset classes of torchvision and torchaudio share: making one, its rows, their parts."""

import inspect
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from winnow.data.modality import Reject
from winnow.data.sources.records import SPLIT_NAMES, as_name
from winnow.data.stage import BadInput

Place = int | str
Splits = dict[str, dict[str, Any]]


class DatasetClass:
    """A dataset class of a library, made once for each split.

    Args:
        library: the module that holds it.
        name: its name there.
        arguments: what it is always made with.
        download: whether it may fetch what is not there.
        takes: arguments that it takes, beside those that its signature names.

    Raises:
        ValueError: if the library has no such class, or it cannot download.
    """

    def __init__(
        self, library: Any, name: str, arguments: dict[str, Any] | None, download: bool, *takes: str
    ) -> None:
        known = {n: c for n in library.__all__ if inspect.isclass(c := getattr(library, n))}
        if name not in known or not issubclass(known[name], Dataset):
            raise ValueError(f"{library.__name__} has no dataset {name!r}; it has {', '.join(known)}")
        self._class, self._name, self._full = known[name], name, f"{library.__name__}.{name}"
        self._arguments, self._download = arguments or {}, download
        self._takes = {*inspect.signature(self._class).parameters, *takes}
        if download and "download" not in self._takes:
            raise ValueError(f"{self._full} cannot download; leave the key 'download' out")

    def splits(self, asked: Splits | None, values: str, key: str) -> dict[str | None, dict[str, Any]]:
        """Give the arguments of each split, of the one without a name if there are no splits.

        Args:
            asked: what the user says of it.
            values: what the argument `key` may be, with a space between; none if not known.
            key: the argument that chooses the split.

        Raises:
            ValueError: if `asked` names other splits, or nothing says which splits there are.
        """
        if asked is not None:
            wrong = sorted(set(asked) - set(SPLIT_NAMES.values()))
            if wrong:
                raise ValueError(f"splits names {wrong}, not train, validation or test")
            return {split: given for split, given in asked.items()}
        if key in self._arguments:
            return {None: {}}
        if values:
            return {_split_of(value): {key: value} for value in values.split()}
        if "train" in self._takes:
            return {"train": {"train": True}, "test": {"train": False}}
        if "split" in self._takes:
            raise ValueError(
                f"which splits {self._full} has is not known here: give what its documentation says, as "
                "splits: {train: {split: …}, test: {split: …}}"
            )
        return {None: {}}

    def rows(
        self, raw: Path, split: str | None, arguments: Mapping[str, Any]
    ) -> Iterator[tuple[str, Any, int]]:
        """Make the dataset and give for each row its name, the dataset and the row's number.

        Raises:
            BadInput: if the data is not there, or not as the class wants it.
        """
        if not raw.is_dir():
            raise BadInput(f"{raw} is no folder; {self._full} reads one")
        own = {"root": str(raw.resolve()), "loader": Path, "download": self._download}
        own = {key: value for key, value in own.items() if key in self._takes}
        try:
            dataset: Any = self._class(**{**own, **self._arguments, **arguments})
        except Exception as error:  # each class has its own for data that is not there
            remedy = "" if self._download else ", or set 'download: true'"
            raise BadInput(
                f"{self._full} cannot read {raw}: {type(error).__name__}: {error}. Lay its files out "
                f"there, unpacked, as its documentation says{remedy}"
            ) from error
        if not len(dataset):
            raise BadInput(f"{self._full} finds nothing in {raw}")
        for number in range(len(dataset)):
            yield f"{self._name}/{split}#{number}" if split else f"{self._name}#{number}", dataset, number


def read_row(dataset: Any, number: int) -> list[Any]:
    """Read what the dataset gives for a number.

    Raises:
        Reject: if it cannot.
        BadInput: if it gives no tuple.
    """
    try:
        row = dataset[number]
    except Reject:
        raise
    except Exception as error:  # whatever a library raises on a broken file
        raise Reject(f"the dataset class cannot read it: {type(error).__name__}: {error}") from error
    if not isinstance(row, tuple) or len(row) < 2:
        raise BadInput(f"{type(dataset).__name__} gives no tuple of a datum and what belongs to it")
    return list(row)


def below(path: Path, root: Path) -> str:
    """Give a path relative to the root, as it may stand in a table."""
    return os.fsencode(Path(os.path.relpath(path, root)).as_posix()).decode(errors="backslashreplace")


def parts_of(target: Any) -> list[Any]:
    """Give the parts of a target, numbers as Python's own."""
    if isinstance(target, Tensor | np.ndarray):
        target = target.tolist()
    several = target if isinstance(target, list | tuple) else [target]
    return [
        part.item()
        if isinstance(part, np.generic) or (isinstance(part, Tensor) and part.numel() == 1)
        else part
        for part in several
    ]


def label_at(parts: list[Any], places: Place | list[Place]) -> str | None:
    """Give the class that stands at a place, or at several, with a space between."""
    names = [_at(parts, place) for place in (places if isinstance(places, list) else [places])]
    return " ".join(name for name in names if name) or None


def group_at(dataset: Any, number: int, parts: list[Any], place: Place | None) -> str | None:
    """Give the group that stands at a place, or in an attribute with an entry for each row."""
    if isinstance(place, str) and hasattr(dataset, place):
        return as_name(parts_of(getattr(dataset, place)[number])[0])
    return None if place is None else _at(parts, place)


def _split_of(value: str) -> str:
    word = value.removesuffix(".tsv").partition("-")[0]
    return "train" if word == "trainval" else SPLIT_NAMES[word]


def _at(parts: list[Any], place: Place) -> str | None:
    if isinstance(place, int):
        if not 0 <= place < len(parts):
            raise BadInput(f"place {place} is none of the {len(parts)} parts, counted from 0")
        return as_name(parts[place])
    for part in parts:
        if isinstance(part, Mapping) and place in part:
            return as_name(part[place])
    raise BadInput(f"the dataset has no attribute, and no part of a datum the key, {place!r}")
