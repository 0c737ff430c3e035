"""WebDataset: tar shards of samples whose files lie side by side."""

import fnmatch
import gzip
import io
import json
import os
import re
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple, cast, final

from winnow.data.modality import Reject
from winnow.data.sources.records import SPLIT_NAMES, Record, Source, as_name
from winnow.data.stage import BadInput

MAX_BYTES = 2**30  # of one member; a larger one is no datum
_ENDINGS = (".tar", ".tar.gz", ".tgz")
_File = io.BufferedReader | gzip.GzipFile
_BLOCK = tarfile.BLOCKSIZE
# What reading a broken or cut off shard raises.
_BROKEN = (tarfile.TarError, EOFError, zlib.error, OSError, ValueError)


class _Member(NamedTuple):
    """One member of a shard.

    Attributes:
        name: its path in the shard.
        key: what it has in common with the other files of its sample; empty where the shard breaks off.
        ending: the rest of its name, lower case: `.jpg`, `.seg.png`.
        content: its bytes; None if it has none to read.
        reason: why it has none.
    """

    name: str
    key: str
    ending: str
    content: bytes | None
    reason: str | None


@final
class WebDataset(Source):
    """Tar shards (`.tar`, `.tar.gz`, `.tgz`) of samples, as the webdataset library reads them.

    Members that follow each other and share their path up to the first dot of the file's name are one
    sample: `a/7.jpg`, `a/7.cls`. One of them is the datum, by its ending. `.cls` holds the class, as
    a name or a number; without it, `.json` holds it under a key. Shards are read once, from front to
    end, and nothing is unpacked.

    Args:
        shards: names below the raw folder, with `{000..009}`, `{a,b}` and `*`; or for each of train,
            validation and test its names. None takes all shards, and where all their names begin like
            a split (`train-000.tar`, `val/7.tar`) that split.
        payload: ending of the datum, where a sample holds several that may be it: `.left.png`.
        label: key of the class in the `.json`.
        group: key of the group in the `.json`.
        classes: names of the classes, where `.cls` or `.json` holds their number, from 0.

    Raises:
        ValueError: if `shards` names another split.
    """

    def __init__(
        self,
        shards: str | list[str] | dict[str, str | list[str]] | None = None,
        payload: str | None = None,
        label: str = "label",
        group: str = "group",
        classes: list[str] | None = None,
    ) -> None:
        if isinstance(shards, dict) and not set(shards) <= set(SPLIT_NAMES.values()):
            raise ValueError(f"shards names {sorted(shards)}, not train, validation or test")
        self.shards, self.payload, self.classes = shards, payload, classes
        self.label, self.group = label, group

    def records(self, raw: Path, suffixes: frozenset[str]) -> Iterator[Record]:
        for split, path, where in _find(raw, self.shards):
            for sample in _samples(_members(path, where)):
                name = f"{where}/{sample[0].name}" if sample[0].key else where
                label = group = None
                try:
                    datum = self._payload(sample, suffixes)
                    name = f"{where}/{datum.name}"
                    described = _described(sample)
                    group = as_name(described.get(self.group))
                    label = self._label(sample, described)
                except Reject as reject:
                    yield Record(name, None, str(reject), label, split, group)
                else:
                    yield Record(name, datum.content, None, label, split, group)

    def _payload(self, sample: list[_Member], suffixes: frozenset[str]) -> _Member:
        for member in sample:
            if member.reason is not None:
                raise Reject(member.reason)
        endings = [member.ending for member in sample]
        twice = sorted({ending for ending in endings if endings.count(ending) > 1})
        if twice:
            raise Reject(f"the sample holds {', '.join(twice)} twice")
        found = [
            member
            for member in sample
            if (member.ending == self.payload if self.payload else _suffix(member.ending) in suffixes)
        ]
        if not found:
            wanted = self.payload or ", ".join(sorted(suffixes))
            raise Reject(
                f"the sample holds {', '.join(endings)}, but no {wanted}; members of a sample must "
                "follow each other"
            )
        if len(found) > 1:
            several = ", ".join(member.ending for member in found)
            raise Reject(f"the sample holds {several}: say with the key 'payload' which is the datum")
        return found[0]

    def _label(self, sample: list[_Member], described: dict[str, Any]) -> str | None:
        label = described.get(self.label)
        for member in sample:
            if member.ending == ".cls":
                label = _decoded(member)
        if isinstance(label, list | dict):
            raise Reject(f"{self.label!r} in the .json is a {type(label).__name__}, not one class")
        name = as_name(label)
        if name is None or self.classes is None or name in self.classes:
            return name
        if not name.isdecimal() or int(name) >= len(self.classes):
            raise Reject(f"class {name!r} is none of {', '.join(self.classes)}")
        return self.classes[int(name)]


def _find(raw: Path, shards: Any) -> list[tuple[str | None, Path, str]]:
    """Give the shards with their splits and names, in order.

    Raises:
        BadInput: if one of those asked for, or any, is missing.
    """
    root = raw if raw.is_dir() else raw.parent
    files = [raw] if raw.is_file() else sorted(path for path in raw.rglob("*") if path.is_file())
    names = [path.relative_to(root).as_posix() for path in files if path.name.endswith(_ENDINGS)]
    if not names:
        raise BadInput(f"{raw} holds no shards: {', '.join(_ENDINGS)}")
    if shards is None:
        words = {name: re.split(r"[^a-z]", name.lower())[0] for name in names}
        by_name = all(word in SPLIT_NAMES for word in words.values())
        return [(SPLIT_NAMES[words[name]] if by_name else None, root / name, name) for name in names]
    chosen: list[tuple[str | None, Path, str]] = []
    for split, patterns in shards.items() if isinstance(shards, dict) else [(None, shards)]:
        for pattern in [patterns] if isinstance(patterns, str) else patterns:
            for one in _expanded(pattern):
                found = [name for name in names if fnmatch.fnmatchcase(name, one)]
                if not found:
                    raise BadInput(f"{raw} holds no shard {one!r}, which 'shards' asks for by {pattern!r}")
                chosen += [(split, root / name, name) for name in found]
    counts = Counter(name for _, _, name in chosen)
    twice = sorted(name for name, count in counts.items() if count > 1)
    if twice:
        raise BadInput(f"'shards' asks for {', '.join(twice)} more than once")
    return chosen


def _expanded(pattern: str) -> list[str]:
    """Write out braces, as a shell does: `{08..10}` is 08, 09, 10 and `{a,b}` is a, b."""
    brace = re.search(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}", pattern)
    if brace is None:
        return [pattern]
    first, last, words = brace.groups()
    if words is not None:
        values = words.split(",")
    else:
        values = [f"{number:0{len(first)}}" for number in range(int(first), int(last) + 1)]
        if not values:
            raise BadInput(f"shards {pattern!r}: {first} comes after {last}")
    before, after = pattern[: brace.start()], pattern[brace.end() :]
    return [written for value in values for written in _expanded(before + value + after)]


def _samples(members: Iterable[_Member]) -> Iterator[list[_Member]]:
    """Gather the members of each sample; the one at which the shard breaks off may not be whole."""
    sample: list[_Member] = []
    for member in members:
        if sample and member.key != sample[0].key:
            if not member.key:
                sample.append(sample[0]._replace(ending="", reason="the shard breaks off at this sample"))
            yield sample
            sample = []
        sample.append(member)
    if sample:
        yield sample


def _members(path: Path, where: str) -> Iterator[_Member]:
    """Stream a shard's members; what is lost by a break is a last member without a key."""
    last = None
    try:
        with _opened(path) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            offset = -1
            while (info := tar.next()) is not None:
                cast(Any, tar).members.clear()  # it keeps them all, and a shard may hold millions
                if tar.offset <= offset:
                    raise tarfile.ReadError("a member lies before the one that it follows")
                offset = tar.offset
                if info.isdir() or PurePosixPath(info.name).name.startswith("."):
                    continue
                last = info.name
                yield _member(tar, info)
            _refuse_rest(file, tar.offset)
    except _BROKEN as error:
        place = "at its start" if last is None else f"in or after {last!r}"
        yield _Member(where, "", "", None, f"the shard breaks off {place}; what follows is lost: {error}")


def _opened(path: Path) -> _File:
    return path.open("rb") if path.suffix == ".tar" else gzip.GzipFile(path)


def _member(tar: tarfile.TarFile, info: tarfile.TarInfo) -> _Member:
    name = os.fsencode(info.name.removeprefix("./")).decode(errors="backslashreplace")
    folder, _, file = name.rpartition("/")
    stem, dot, ending = file.partition(".")
    key, ending = f"{folder}/{stem}", f"{dot}{ending}".lower()
    if name.startswith("/") or ".." in PurePosixPath(name).parts:
        return _Member(name, key, ending, None, f"{name!r} leaves the shard")
    if not info.isfile():
        return _Member(name, key, ending, None, f"{name!r} is a link or a device, which is not followed")
    if info.size > MAX_BYTES:
        return _Member(name, key, ending, None, f"{name!r} has {info.size} bytes, more than {MAX_BYTES}")
    content = cast(IO[bytes], tar.extractfile(info)).read()
    if len(content) < info.size:
        raise tarfile.ReadError(f"{len(content)} of {info.size} bytes of {name!r} are there")
    return _Member(name, key, ending, content, None)


def _refuse_rest(file: _File, offset: int) -> None:
    """Tell an end from a break, which tarfile does not: a tar ends in two blocks of zeros.

    Raises:
        tarfile.ReadError: if something else stands there, or something behind it.
    """
    file.seek(offset)
    if file.read(2 * _BLOCK) != bytes(2 * _BLOCK):
        raise tarfile.ReadError("the mark of its end is missing")
    while block := file.read(2**20):
        if block.strip(b"\0"):
            raise tarfile.ReadError("there is more behind the mark of its end")


def _suffix(ending: str) -> str:
    return f".{ending.rpartition('.')[2]}"


def _decoded(member: _Member) -> str:
    try:
        return cast(bytes, member.content).decode()
    except UnicodeDecodeError as error:
        raise Reject(f"{member.ending} is not UTF-8") from error


def _described(sample: list[_Member]) -> dict[str, Any]:
    for member in sample:
        if member.ending == ".json":
            try:
                described = json.loads(_decoded(member))
            except (ValueError, RecursionError) as error:
                raise Reject(f".json is not JSON: {error}") from error
            if not isinstance(described, dict):
                raise Reject(".json is not a JSON object")
            return described
    return {}
