"""A folder of files, one datum each."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, final

from winnow.data.modality import Reject
from winnow.data.sources.records import SPLIT_NAMES, Record, Source, read_file
from winnow.data.stage import BadInput


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
            raise BadInput(f"{raw} is no folder; a single table is read by winnow.data.sources.tables.Table")
        root = raw.resolve()
        are_splits = _holds_splits(root)
        found = False
        for path in _walk(root):
            found = True
            # A name in another encoding than UTF-8 cannot stand in a table as it is.
            where = os.fsencode(path.relative_to(root).as_posix()).decode(errors="backslashreplace")
            folders = where.split("/")[:-1]
            split = SPLIT_NAMES[folders.pop(0).lower()] if are_splits and folders else None
            label = folders[0] if self.labels == "folders" and folders else None
            try:
                content, reason = read_file(path, root, suffixes), None
            except Reject as reject:
                content, reason = None, str(reject)
            yield Record(where, content, reason, label, split, None)
        if not found:
            raise BadInput(f"folder {raw} is empty: it should hold {', '.join(sorted(suffixes))}")


def _holds_splits(root: Path) -> bool:
    tops = [path.name for path in sorted(root.iterdir()) if path.is_dir() and path.name[0] != "."]
    splits = [name for name in tops if name.lower() in SPLIT_NAMES]
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
