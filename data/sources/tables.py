"""A table with a row for each datum."""

import csv
import gzip
import io
import json
import os
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, final

import pyarrow as pa
import pyarrow.parquet as pq

from winnow.data.modality import Reject
from winnow.data.sources.records import SPLIT_NAMES, Record, Source, as_name, as_text, majority, read_file
from winnow.data.stage import BadInput

_SEPARATORS = {".csv": ",", ".tsv": "\t"}


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
        target: the column of transcripts, numbers or sets of labels, for what learns more than a class.
        id: the column of names that are unique; without one a row is named by its number.
        annotators: columns that each hold what one annotator says; an empty cell says nothing. Without
            a column of labels the label is that of most annotators; of labels that tie, that of the
            annotator listed first.
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
        target: str | None = None,
        id: str | None = None,
        annotators: list[str] | None = None,
        classes: list[str] | None = None,
        encoding: str = "utf-8-sig",
    ) -> None:
        if (text is None) == (path is None):
            raise ValueError(f"give one of text and path, not text={text!r} and path={path!r}")
        self.texts = [text] if isinstance(text, str) else text
        self.path, self.table, self.root = path, table, root
        self.label, self.split, self.group, self.target, self.id = label, split, group, target, id
        self.annotators, self.classes, self.encoding = annotators or [], classes, encoding

    def records(self, raw: Path, suffixes: frozenset[str]) -> Iterator[Record]:
        table = raw / self.table if self.table else raw
        if not table.is_file():
            raise BadInput(f"{table} is no file: a folder needs the key 'table', its table's name")
        boundary = (raw if raw.is_dir() else raw.parent).resolve()
        folder = table.parent.resolve() / self.root
        columns = [*(self.texts or []), self.path, self.label, self.split, self.group, self.target, self.id]
        columns += self.annotators
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
            said = {name: _cell(row, name) for name in self.annotators}
            annotations = {name: label for name, label in said.items() if label is not None}
            label = _cell(row, self.label) if self.label else majority(annotations)
            group, target = _cell(row, self.group), _cell(row, self.target)
            split = SPLIT_NAMES.get((_cell(row, self.split) or "").lower())
            try:
                self._check(row, number, unique)
                if self.texts:
                    content = "\n".join(as_text(row[column]) for column in self.texts).encode()
                else:
                    path = self._path(row, folder)
                    content = read_file(path, boundary, suffixes)
                    source = path.relative_to(boundary).as_posix()
                    unique.check("file", source, number)
            except Reject as reject:
                yield Record(source, None, str(reject), label, split, group, annotations, target)
            else:
                yield Record(source, content, None, label, split, group, annotations, target)
        if not number:
            raise BadInput(f"{table} has no rows")

    def _check(self, row: dict[str, Any], number: int, unique: "_Unique") -> None:
        id_, split = _cell(row, self.id), _cell(row, self.split)
        if self.id is not None:
            if id_ is None:
                raise Reject(f"row {number} has no {self.id}")
            unique.check(self.id, id_, number)
        if split and split.lower() not in SPLIT_NAMES:
            raise Reject(f"{self.split} {split!r} is none of {', '.join(SPLIT_NAMES)}")
        for column in (self.label, *self.annotators):
            label = _cell(row, column)
            if label and self.classes is not None and label not in self.classes:
                raise Reject(f"{column} {label!r} is none of {', '.join(self.classes)}")

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


def _cell(row: dict[str, Any], column: str | None) -> str | None:
    return None if column is None else as_name(row[column])


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
        except (ValueError, RecursionError) as error:
            yield f"not JSON: {error}"
        else:
            yield row if isinstance(row, dict) else "not a JSON object"
