"""Sources: raw data the way users have it, as a stream of records."""

import abc
import csv
import gzip
import io
import json
import math
import os
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, final

import pyarrow as pa
import pyarrow.parquet as pq

from winnow.data.modality import Reject
from winnow.data.stage import BadInput

_SEPARATORS = {".csv": ",", ".tsv": "\t"}
# What people call the splits, by the name they have here.
_SPLIT_NAMES = {
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
    """

    source: str
    raw: bytes | None
    reason: str | None
    label: str | None
    split: str | None
    group: str | None


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


@final
class Folder(Source):
    """A folder of files, one datum each.

    If all of its top folders are named like splits (`train`, `val`, `test`, …), they are the splits
    and the folders in them are the top folders. Hidden files are left out.

    Args:
        labels: "folders" takes the name of the top folder for the label of all below, "none" reads
            no label.
    """

    def __init__(self, labels: Literal["folders", "none"]) -> None:
        self.labels = labels

    def records(self, raw: Path, suffixes: frozenset[str]) -> Iterator[Record]:
        if not raw.is_dir():
            raise BadInput(f"{raw} is no folder; a single table is read by winnow.data.sources.Table")
        root = raw.resolve()
        are_splits = _holds_splits(root)
        found = False
        for path in _walk(root):
            found = True
            # A name in another encoding than UTF-8 cannot stand in a table as it is.
            where = os.fsencode(path.relative_to(root).as_posix()).decode(errors="backslashreplace")
            folders = where.split("/")[:-1]
            split = _SPLIT_NAMES[folders.pop(0).lower()] if are_splits and folders else None
            label = folders[0] if self.labels == "folders" and folders else None
            try:
                content, reason = _read(path, root, suffixes), None
            except Reject as reject:
                content, reason = None, str(reject)
            yield Record(where, content, reason, label, split, None)
        if not found:
            raise BadInput(f"folder {raw} is empty: it should hold {', '.join(sorted(suffixes))}")


@final
class Table(Source):
    """A table with a row for each datum: a text, or the path of a file.

    Reads CSV, TSV, JSON lines and Parquet, each also compressed (`.gz`).

    Args:
        text: the column of texts; of several columns the texts are joined by a line break.
        path: the column of file paths, relative to the table's folder. One of `text` and `path`.
        table: the table's name if the raw data is a folder that holds it.
        root: folder that the paths are relative to, itself relative to the table's.
        label: the column of labels; an empty cell is an unlabelled datum.
        split: the column of splits; an empty cell leaves the split to winnow.
        group: the column of groups.
        id: the column of names that are unique; without one a row is named by its number.
        classes: the labels there may be; None allows all.
        encoding: of a CSV, TSV or JSON lines file.

    Raises:
        ValueError: if neither or both of `text` and `path` are given.
    """

    def __init__(
        self,
        text: str | list[str] | None = None,
        path: str | None = None,
        table: str | None = None,
        root: str = ".",
        label: str | None = None,
        split: str | None = None,
        group: str | None = None,
        id: str | None = None,
        classes: list[str] | None = None,
        encoding: str = "utf-8-sig",
    ) -> None:
        if (text is None) == (path is None):
            raise ValueError(f"give one of text and path, not text={text!r} and path={path!r}")
        self.texts = [text] if isinstance(text, str) else text
        self.path, self.table, self.root = path, table, root
        self.label, self.split, self.group, self.id = label, split, group, id
        self.classes, self.encoding = classes, encoding

    def records(self, raw: Path, suffixes: frozenset[str]) -> Iterator[Record]:
        table = raw / self.table if self.table else raw
        if not table.is_file():
            raise BadInput(f"{table} is no file: a folder needs the key 'table', its table's name")
        boundary = (raw if raw.is_dir() else raw.parent).resolve()
        folder = table.parent.resolve() / self.root
        columns = [*(self.texts or []), self.path, self.label, self.split, self.group, self.id]
        unique = _Unique()
        number = 0
        for number, row in enumerate(_rows(table, self.encoding), 1):
            if isinstance(row, str):
                yield Record(f"{table.name}#{number}", None, row, None, None, None)
                continue
            for column in columns:
                if column is not None and column not in row:
                    raise BadInput(f"{table} has no column {column!r} in row {number}: {list(row)}")
            source = f"{table.name}#{_cell(row, self.id) or number}"
            label, group = _cell(row, self.label), _cell(row, self.group)
            split = _SPLIT_NAMES.get((_cell(row, self.split) or "").lower())
            try:
                self._check(row, number, unique)
                if self.texts:
                    content = "\n".join(_text(row[column]) for column in self.texts).encode()
                else:
                    path = self._path(row, folder)
                    content = _read(path, boundary, suffixes)
                    source = path.relative_to(boundary).as_posix()
                    unique.check("file", source, number)
            except Reject as reject:
                yield Record(source, None, str(reject), label, split, group)
            else:
                yield Record(source, content, None, label, split, group)
        if not number:
            raise BadInput(f"{table} has no rows")

    def _check(self, row: dict[str, Any], number: int, unique: "_Unique") -> None:
        id_, label, split = (_cell(row, column) for column in (self.id, self.label, self.split))
        if self.id is not None:
            if id_ is None:
                raise Reject(f"row {number} has no {self.id}")
            unique.check(self.id, id_, number)
        if split and split.lower() not in _SPLIT_NAMES:
            raise Reject(f"{self.split} {split!r} is none of {', '.join(_SPLIT_NAMES)}")
        if label and self.classes is not None and label not in self.classes:
            raise Reject(f"{self.label} {label!r} is none of {', '.join(self.classes)}")

    def _path(self, row: dict[str, Any], folder: Path) -> Path:
        named = _cell(row, self.path)
        if named is None:
            raise Reject(f"the cell {self.path!r} is empty")
        if Path(named).is_absolute():
            raise Reject(f"{self.path} {named!r} is an absolute path, not one below {folder.name}/")
        return Path(os.path.normpath(folder / named))


class _Unique:
    """Remembers values that may stand in a table once."""

    def __init__(self) -> None:
        self._row: dict[tuple[str, str], int] = {}

    def check(self, name: str, value: str, row: int) -> None:
        first = self._row.setdefault((name, value), row)
        if first != row:
            raise Reject(f"{name} {value!r} of row {row} already stands in row {first}")


def _holds_splits(root: Path) -> bool:
    tops = [path.name for path in sorted(root.iterdir()) if path.is_dir() and path.name[0] != "."]
    splits = [name for name in tops if name.lower() in _SPLIT_NAMES]
    if len(splits) > 1 and len(splits) < len(tops):
        others = sorted(set(tops) - set(splits))
        raise BadInput(f"{root} holds both splits {splits} and other folders {others}: move either")
    return bool(tops) and len(splits) == len(tops)


def _walk(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir() and not path.is_symlink():
            yield from _walk(path)
        else:
            yield path


def _read(path: Path, root: Path, suffixes: frozenset[str]) -> bytes:
    """Read a datum's file.

    Raises:
        Reject: if it is none, or lies outside of `root`, by its path or by a link.
    """
    try:
        real = path.resolve()
    except (RuntimeError, OSError) as error:
        raise Reject(f"{path.name!r} is a link that leads to itself") from error
    if not real.is_relative_to(root):
        raise Reject(f"{path.name!r} leaves the folder of the raw data")
    if not real.exists():
        raise Reject(f"file {path.name!r} is missing")
    if not real.is_file():
        raise Reject(f"{path.name!r} is no file, or a link to a folder")
    if path.suffix.lower() not in suffixes:
        raise Reject(f"ending {path.suffix!r} is none of {', '.join(sorted(suffixes))}")
    try:
        return path.read_bytes()
    except OSError as error:
        raise Reject(f"cannot be read: {error.strerror}") from error


def _text(value: Any) -> str:
    """Give a cell as text; an empty one, however the format spells it, as no text."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))  # a column of whole numbers with gaps was read as floats
    return str(value)


def _cell(row: dict[str, Any], column: str | None) -> str | None:
    return None if column is None else _text(row[column]).strip() or None


def _rows(table: Path, encoding: str) -> Iterator[dict[str, Any] | str]:
    """Stream a table's rows; a row that cannot be read is the reason why."""
    compressed = table.suffix.lower() == ".gz"
    kind = Path(table.stem if compressed else table.name).suffix.lower()
    try:
        with gzip.open(table) if compressed else table.open("rb") as file:
            if kind == ".parquet":
                # Parquet is read from its end; a compressed one has to be unpacked first.
                seekable = pa.BufferReader(file.read()) if compressed else file
                for batch in pq.ParquetFile(seekable).iter_batches(1024):
                    yield from batch.to_pylist()
            elif kind in (*_SEPARATORS, ".jsonl", ".ndjson"):
                lines = io.TextIOWrapper(file, encoding=encoding, newline="")
                yield from _cells(lines, kind) if kind in _SEPARATORS else _json_lines(lines)
            else:
                raise BadInput(f"{table}: ending {kind!r} is none of .csv, .tsv, .jsonl, .ndjson, .parquet")
    except UnicodeDecodeError as error:
        raise BadInput(
            f"{table} is not {encoding}: byte {error.object[error.start]:#04x}; convert it, or set "
            "the key 'encoding' to what it is: latin-1, cp1252, utf-16, …"
        ) from error
    except (csv.Error, pa.ArrowInvalid, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise BadInput(f"{table} cannot be read: {error}") from error


def _cells(lines: io.TextIOWrapper, kind: str) -> Iterator[dict[str, Any] | str]:
    csv.field_size_limit(sys.maxsize)  # the module refuses cells of more than 128 kB otherwise
    rows = csv.reader(lines, delimiter=_SEPARATORS[kind], strict=True)
    try:
        header = next(rows, [])
        for row in rows:
            if len(row) == len(header):
                yield dict(zip(header, row, strict=True))
            elif row:  # a blank line is no row
                yield f"{len(row)} cells, but the header has {len(header)}"
    except csv.Error as error:
        raise csv.Error(f"line {rows.line_num}: {error}") from error


def _json_lines(lines: io.TextIOWrapper) -> Iterator[dict[str, Any] | str]:
    for line in lines:
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            yield f"not JSON: {error}"
        else:
            yield row if isinstance(row, dict) else "not a JSON object"
