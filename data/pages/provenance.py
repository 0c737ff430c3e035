"""What a report was made by: code, libraries, parameters and seeds, so that it can be made again."""

import hashlib
import json
import platform
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

_LIBRARIES = (
    *("cleanlab", "faiss-cpu", "jinja2", "lightning", "numpy", "pandas", "pillow", "pyarrow"),
    *("scikit-learn", "scipy", "soundfile", "torch"),
)
_FOLDERS = ("data", "ssl", "compress")
# What a report depends on, directly or not; what compresses a model comes later and says nothing here.
_SECTIONS = (
    "modality",
    "ingest",
    "audit",
    "curate",
    "pretrain",
    "embed",
    "probe",
    "drift",
    "effect",
    "report",
)


def read(name: str, params: Path) -> dict[str, Any]:
    """Say what made the report of a dataset.

    Args:
        name: the dataset's section of params.yaml.
        params: that file; where it or the section is absent, nothing is known of parameters.
    """
    section = _section(name, params)
    return {
        "winnow": metadata.version("winnow"),
        "code": code(Path(__file__).parents[2]),
        "params": digest(section) if section else None,
        "python": platform.python_version(),
        "libraries": {library: version for library in _LIBRARIES if (version := _version(library))},
        "seeds": dict(sorted(_seeds(section))),
    }


def code(root: Path) -> str:
    """Name the project's code by a hash of all modules and templates."""
    found = hashlib.blake2b(digest_size=8)
    for folder in _FOLDERS:
        for path in sorted((root / folder).rglob("*")):
            if path.suffix in {".py", ".jinja", ".json"}:
                found.update(f"{path.relative_to(root).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return found.hexdigest()


def digest(section: Mapping[str, Any]) -> str:
    """Name parameters by a hash that does not depend on the order of keys, or on comments."""
    text = json.dumps(section, sort_keys=True, ensure_ascii=False)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _section(name: str, params: Path) -> dict[str, Any]:
    if not params.exists():
        return {}
    own = yaml.safe_load(params.read_text(encoding="utf-8")).get(name) or {}
    return {key: own[key] for key in _SECTIONS if key in own}


def _seeds(section: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, int]]:
    for key, value in section.items():
        if key == "seed":
            yield f"{path}{key}", value
        elif isinstance(value, Mapping):
            yield from _seeds(value, f"{path}{key}.")


def _version(library: str) -> str | None:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:  # an optional one that is not installed made nothing
        return None
