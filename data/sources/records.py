"""Sources: raw data the way users have it, as a stream of records."""

import abc
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from winnow.data.modality import Reject

# What people call the splits, by the name they have here.
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}


class Record(NamedTuple):
    """One raw datum, or the reason why it could not be had.

    Attributes:
        source: where it came from, relative to the root: `cats/1.png`, `train.csv#12`.
        raw: its bytes, None if it could not be had.
        reason: why not, None if it could.
        label: its class, None if unlabelled.
        split: train, validation or test if the source says so, else None.
        group: what must not be torn apart by a split (a speaker, a document), if known.
        annotations: the class that each annotator gave it, by the annotator's name.
        target: what is to be told of it beyond a class, if known: a transcript, a number, several labels.
    """

    source: str
    raw: bytes | None
    reason: str | None
    label: str | None
    split: str | None
    group: str | None
    annotations: Mapping[str, str] = MappingProxyType({})
    target: str | None = None


class Source(abc.ABC):
    """Where raw data comes from."""

    @abc.abstractmethod
    def records(self, raw: Path, suffixes: frozenset[str]) -> Iterator[Record]:
        """Stream the raw data, in an order that is the same every time.

        Args:
            raw: the folder or file that holds it.
            suffixes: endings of files that may hold a datum, lower case with the dot.

        Raises:
            BadInput: if the whole of it cannot be used as asked.
        """


def read_file(path: Path, root: Path, suffixes: frozenset[str]) -> bytes:
    """Read a datum's file.

    Args:
        path: the file.
        root: the folder that it must lie in, resolved.
        suffixes: endings that it may have; none allows all.

    Raises:
        Reject: if it is none, or lies outside of `root`, by its path or by a link.
    """
    try:
        real = path.resolve()
        real.exists()
    except RuntimeError as error:
        raise Reject(f"{path.name!r} is a link that leads to itself") from error
    except (OSError, ValueError) as error:  # too long a name, or one with a zero byte
        raise Reject(f"{path.name!r} is no name of a file: {error}") from error
    if not real.is_relative_to(root):
        raise Reject(f"{path.name!r} leaves the folder of the raw data")
    if not real.exists():
        raise Reject(f"file {path.name!r} is missing")
    if not real.is_file():
        raise Reject(f"{path.name!r} is no file, or a link to a folder")
    if suffixes and path.suffix.lower() not in suffixes:
        raise Reject(f"ending {path.suffix!r} is none of {', '.join(sorted(suffixes))}")
    try:
        return path.read_bytes()
    except OSError as error:
        raise Reject(f"cannot be read: {error.strerror}") from error


def as_text(value: Any) -> str:
    """Give a value as text; a missing one, however the format spells it, as no text."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))  # a column of whole numbers with gaps was read as floats
    # JSON can spell half a character, which no file can hold.
    return str(value).encode(errors="backslashreplace").decode()


def as_name(value: Any) -> str | None:
    """Give a value as the name of a class or group; None if nothing is left of it."""
    return as_text(value).strip() or None


def majority(annotations: Mapping[str, str]) -> str | None:
    """Give the label of most annotators; of labels that tie, that of the annotator listed first.

    The order of annotators is the user's to choose, whereas the first label by name would favour
    one class throughout.
    """
    # Counter keeps the order in which labels were met, and so does its sorting.
    return next((label for label, _ in Counter(annotations.values()).most_common(1)), None)
