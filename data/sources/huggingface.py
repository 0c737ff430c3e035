"""Datasets of Hugging Face: local copies, streamed or not, and those of the Hub."""

import importlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, final

import fsspec

from winnow.data.modality import Reject
from winnow.data.sources.records import SPLIT_NAMES, Record, Source, as_name, as_text, read_file
from winnow.data.stage import BadInput

_SAVED = ("dataset_dict.json", "state.json")  # what save_to_disk leaves in its folder
_OURS = ("path", "split", "streaming", "trust_remote_code")  # arguments that are not the user's
_AUTO = "auto"


@final
class HuggingFace(Source):
    """A dataset that the library `datasets` reads: saved by it, data files in a folder, or of the Hub.

    Images and recordings come as they were stored, undecoded; no code of a dataset is ever run.

    Args:
        dataset: the copy's folder below the raw one, and its name on the Hub; None reads the raw
            folder itself.
        column: the column of the datum, or several of texts, joined by a line break; `auto` takes the
            only one of images or recordings, or the only one of texts, or that named `text`.
        label: the column of classes; `auto` takes `label`, or else the only one of type ClassLabel, if
            there is any; None reads no labels.
        group: the column of groups.
        target: the column of transcripts, numbers or sets of labels, for what learns more than a class.
        splits: for each of train, validation and test the name, or names, it has in the dataset; None
            takes all by their names.
        classes: names of the classes by their number, where the dataset does not know them.
        arguments: further ones of `datasets.load_dataset`: `name`, `revision`, `data_files`, ….
        streaming: read the files as they are, instead of a copy in the library's cache.
        download: whether a dataset of which there is no copy may come from the Hub.
    """

    def __init__(
        self,
        dataset: str | None = None,
        column: str | list[str] = _AUTO,
        label: str | None = _AUTO,
        group: str | None = None,
        target: str | None = None,
        splits: dict[str, str | list[str]] | None = None,
        classes: list[str] | None = None,
        arguments: dict[str, Any] | None = None,
        streaming: bool = False,
        download: bool = False,
    ) -> None:
        if splits is not None and not set(splits) <= set(SPLIT_NAMES.values()):
            raise ValueError(f"splits names {sorted(splits)}, not train, validation or test")
        if refused := set(_OURS) & set(arguments or {}):
            raise ValueError(f"arguments may not hold {', '.join(sorted(refused))}")
        if download and dataset is None:
            raise ValueError("download needs the key 'dataset', a name on the Hub")
        self.dataset, self.column, self.label, self.group, self.target = dataset, column, label, group, target
        self.splits, self.classes, self.arguments = splits, classes, arguments or {}
        self.streaming, self.download = streaming, download

    def records(self, raw: Path, suffixes: frozenset[str]) -> Iterator[Record]:
        library = _library()
        copy = raw / self.dataset if self.dataset else raw
        is_here = copy.exists()
        places = _Places(library, copy, remote=not is_here)
        found = False
        for split, theirs, rows in self._chosen(self._load(library, raw, copy, is_here), raw):
            what = f"{theirs or 'the dataset'} of {copy}"
            features = rows.features or dict.fromkeys(next(_read(rows, what), {}))
            if not features:
                continue  # an empty file has not even columns
            columns, label = self._columns(library, features)
            known = getattr(features.get(label or ""), "names", None)
            for column in columns:
                for kind in (library.Audio, library.Image):
                    if isinstance(features[column], kind):
                        rows = rows.cast_column(column, kind(decode=False))
            for number, row in enumerate(_read(rows, what)):
                found = True
                where, name = f"{theirs or 'row'}#{number}", None
                group = as_name(row[self.group]) if self.group else None
                target = as_name(row[self.target]) if self.target else None
                try:
                    name = _class(row[label], self.classes or known) if label else None
                    content = _content([row[column] for column in columns], columns, places)
                except Reject as reject:
                    yield Record(where, None, str(reject), name, split, group, target=target)
                else:
                    yield Record(where, content, None, name, split, group, target=target)
        if not found:
            raise BadInput(f"{copy} has no rows")

    def _load(self, library: Any, raw: Path, copy: Path, is_here: bool) -> Any:
        if not is_here and not self.download:
            raise BadInput(
                f'{raw} holds no folder {self.dataset!r}. Save a copy there: python -c "from datasets '
                f"import load_dataset; load_dataset('{self.dataset}').save_to_disk('{copy}')\", or set "
                "'download: true'"
            )
        try:
            if any((copy / name).is_file() for name in _SAVED):
                loaded = library.load_from_disk(str(copy))
                return _streamed(loaded) if self.streaming else loaded
            # Of a single file the library wants to know the kind; of a folder it finds it out.
            if copy.is_file():
                kind = {"jsonl": "json", "ndjson": "json"}.get(copy.suffix[1:], copy.suffix[1:])
                where: dict[str, Any] = {"path": kind, "data_files": str(copy)}
            else:
                where = {"path": str(copy.resolve()) if is_here else self.dataset}
            return library.load_dataset(**where, **self.arguments, streaming=self.streaming)
        except Exception as error:  # what its builders raise differs by format and by cause
            cause = error.__cause__ or error  # the library's own errors say only that there was one
            raise BadInput(f"datasets cannot read {copy}: {type(cause).__name__}: {cause}") from error

    def _chosen(self, loaded: Any, raw: Path) -> Iterator[tuple[str | None, str | None, Any]]:
        """Give our split, theirs, and the rows."""
        if not isinstance(loaded, Mapping):
            if self.splits is not None:
                raise BadInput(f"the dataset in {raw} is in one piece: leave the key 'splits' out")
            yield None, None, loaded
            return
        splits = self.splits
        if splits is None:
            unknown = [name for name in loaded if name.lower() not in SPLIT_NAMES]
            if unknown:
                raise BadInput(
                    f"the dataset in {raw} has the splits {list(loaded)}: say with the key 'splits' which "
                    "of them are train, validation and test"
                )
            splits = {}
            for name in loaded:
                splits[SPLIT_NAMES[name.lower()]] = [*splits.get(SPLIT_NAMES[name.lower()], []), name]
        for ours, names in splits.items():
            for name in [names] if isinstance(names, str) else names:
                if name not in loaded:
                    raise BadInput(f"the dataset in {raw} has no split {name!r}, but {list(loaded)}")
                yield ours, name, loaded[name]

    def _columns(self, library: Any, features: Mapping[str, Any]) -> tuple[list[str], str | None]:
        """Find the columns of the datum and that of the label."""
        asked = [self.column] if isinstance(self.column, str) else self.column
        for name in (*asked, self.label, self.group, self.target):
            if name not in (None, _AUTO) and name not in features:
                raise BadInput(f"the dataset has no column {name!r}, but {list(features)}")
        label = self.label
        if label == _AUTO:
            of_classes = [name for name in features if isinstance(features[name], library.ClassLabel)]
            if "label" not in features and len(of_classes) > 1:
                raise BadInput(f"say with the key 'label' which of {of_classes} is the class")
            label = "label" if "label" in features else next(iter(of_classes), None)
        if self.column != _AUTO:
            return asked, label
        media = [n for n in features if isinstance(features[n], library.Audio | library.Image)]
        texts = [n for n in features if getattr(features[n], "dtype", "") in ("string", "large_string")]
        texts = [name for name in texts if name not in (label, self.group, self.target)]
        found = media or (["text"] if "text" in texts else texts)
        if len(found) != 1:
            raise BadInput(f"say with the key 'column' which of {list(features)} is the datum")
        return found, label


class _Places:
    """Where files that a dataset names may lie: in its copy, or where the library keeps what it gets."""

    def __init__(self, library: Any, copy: Path, remote: bool) -> None:
        self.folder, self.remote = (copy.parent if copy.is_file() else copy).resolve(), remote
        hub = importlib.import_module("huggingface_hub.constants")
        caches = (Path(library.config.HF_DATASETS_CACHE), Path(hub.HF_HUB_CACHE))
        self.roots = [self.folder, *(cache.resolve() for cache in caches)]

    def read(self, named: str) -> bytes:
        """Read a file by its path, or by an address that leads into an archive or to the Hub."""
        if "://" not in named:
            path = self.folder / named
            return read_file(path, self._root(path), frozenset())
        *_, last = named.split("::")
        if "://" in last:
            if not (self.remote and last.startswith("hf://")):
                raise Reject(f"{named!r} leaves the folder of the raw data")
        else:
            self._root(Path(last))
        try:
            with fsspec.open(named, "rb") as file:
                return file.read()
        except Exception as error:  # each kind of archive and each service has its own
            raise Reject(f"{named!r} cannot be read: {error}") from error

    def _root(self, path: Path) -> Path:
        try:
            real = path.resolve()
        except (OSError, RuntimeError, ValueError) as error:
            raise Reject(f"{path.name!r} is no name of a file: {error}") from error
        for root in self.roots:
            if real.is_relative_to(root):
                return root
        raise Reject(f"{path.name!r} leaves the folder of the raw data")


def _library() -> Any:
    try:
        return importlib.import_module("datasets")
    except ModuleNotFoundError as error:
        raise BadInput(
            "reading datasets of Hugging Face needs their library: pip install 'winnow[huggingface]', or "
            "pip install datasets"
        ) from error


def _streamed(loaded: Any) -> Any:
    if isinstance(loaded, Mapping):
        return {name: rows.to_iterable_dataset() for name, rows in loaded.items()}
    return loaded.to_iterable_dataset()


def _read(rows: Any, what: str) -> Iterator[Mapping[str, Any]]:
    number = 0
    iterator = iter(rows)
    while True:
        try:
            row = next(iterator)
        except StopIteration:
            return
        except Exception as error:  # the file is broken, and there is no way past the place
            raise BadInput(
                f"{what} breaks off after {number} rows: {type(error).__name__}: {error}"
            ) from error
        number += 1
        yield row


def _class(value: Any, names: list[str] | None) -> str | None:
    if isinstance(value, list | dict):
        raise Reject(f"the label is a {type(value).__name__}, not one class")
    if names is None or not isinstance(value, int):
        return as_name(value)
    if value < 0:
        return None  # how the Hub's datasets mark what has no class
    if value >= len(names):
        raise Reject(f"class {value} is none of the {len(names)} classes")
    return as_name(names[value])


def _content(values: list[Any], columns: list[str], places: _Places) -> bytes:
    for value, column in zip(values, columns, strict=True):
        if isinstance(value, list) or (isinstance(value, dict) and not value.keys() >= {"bytes", "path"}):
            raise Reject(f"{column!r} holds a {type(value).__name__}, not a text, image or recording")
    if not any(isinstance(value, dict) for value in values):
        return "\n".join(as_text(value) for value in values).encode()
    if len(values) > 1:
        raise Reject(f"of {', '.join(columns)} only texts can be joined")
    if values[0]["bytes"] is not None:
        return bytes(values[0]["bytes"])
    if values[0]["path"] is None:
        raise Reject(f"the cell {columns[0]!r} is empty")
    return places.read(values[0]["path"])
