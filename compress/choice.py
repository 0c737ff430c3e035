"""Several runtimes of one model → the one that is fastest on this machine: measured once, and remembered."""

import hashlib
import json
import logging
import platform
import statistics
import tempfile
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from winnow.compress.engine import library
from winnow.compress.engine.library import Unavailable
from winnow.compress.runtimes import Runtime, in_turns

SECONDS = 0.5  # that measuring takes, about
FEWEST, MOST = 3, 30  # rounds of it

Openers = Mapping[str, Callable[[], Runtime]]

_log = logging.getLogger(__name__)


class Choice(NamedTuple):
    """The runtime that serves.

    Attributes:
        runtime: itself.
        median_ms: of a batch in each that was measured; empty if it stood alone.
    """

    runtime: Runtime
    median_ms: dict[str, float]


def fastest(openers: Openers, x: Tensor, facts: Mapping[str, Any]) -> Choice:
    """Run a batch in all runtimes, in turns, and give the one that took least; or that did so before.

    A runtime that cannot be had is told of in a line of the log, and the others serve. What was measured is
    kept as a small file in the cache's folder, one for each batch size, machine and version of what
    runs; without that file it is measured again.

    Args:
        openers: by name, what makes a runtime.
        x: a batch as large as those that will be run.
        facts: what else times depend on, the model first of all, as plain JSON.

    Raises:
        Unavailable: if none of them can be had.
    """
    facts = {**facts, **machine(), **versions(), "batch_size": len(x)}
    known = _read(_record(facts, openers))
    if known and (found := _open({least(known): openers[least(known)]})):
        return Choice(found[least(known)], known)
    runtimes = _open(openers)
    if not runtimes:
        raise Unavailable(f"none of {', '.join(openers)} runs the model here")
    if len(runtimes) == 1:
        return Choice(runtimes.popitem()[1], {})
    known = _read(_record(facts, runtimes))
    if not known:
        known = _measure(runtimes, x)
        _write(_record(facts, runtimes), {**facts, "median_ms": known})
    return Choice(runtimes[least(known)], known)


def least(numbers: Mapping[str, float]) -> str:
    """Name the least of some numbers."""
    return min(numbers, key=numbers.__getitem__)


def machine() -> dict[str, str]:
    """Tell which processor this is, and what it can do, as far as the system says."""
    said: dict[str, str] = {}
    if (told := Path("/proc/cpuinfo")).exists():  # elsewhere, or on other processors, there is no such line
        lines = (line.partition(":") for line in told.read_text(encoding="utf-8").splitlines())
        said = {key.strip(): value.strip() for key, _, value in lines}
    name = said.get("model name") or platform.processor() or platform.machine()
    flags = hashlib.sha256(said.get("flags", "").encode()).hexdigest()[:16]
    return {"processor": name, "processor_flags": flags}


def versions() -> dict[str, str]:
    """Tell the version of all that runs models."""
    found = {"engine": library.source_hash()}
    for package in ("torch", "onnxruntime"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def _open(openers: Openers) -> dict[str, Runtime]:
    found: dict[str, Runtime] = {}
    for name, make in openers.items():
        try:
            found[name] = make()
        except (Unavailable, ImportError, ValueError) as error:
            _log.warning("%s is left out: %s", name, error)
    return found


def _measure(runtimes: Mapping[str, Runtime], x: Tensor) -> dict[str, float]:
    turn = sum(times[0] for times in in_turns(runtimes, x, warmup=1, rounds=1).values())
    rounds = min(max(int(SECONDS / turn), FEWEST), MOST)
    taken = in_turns(runtimes, x, warmup=0, rounds=rounds)
    known = {name: round(1000 * statistics.median(times), 4) for name, times in taken.items()}
    told = ", ".join(f"{name} {ms:g} ms" for name, ms in known.items())
    _log.info("a batch of %d takes: %s; this is remembered", len(x), told)
    return known


def _record(facts: Mapping[str, Any], names: Iterable[str]) -> Path:
    """Name the file that holds what was measured of these runtimes."""
    told = json.dumps({**facts, "runtimes": sorted(names)}, sort_keys=True)
    return library.cache_folder() / f"runtimes-{hashlib.sha256(told.encode()).hexdigest()[:16]}.json"


def _read(record: Path) -> dict[str, float]:
    """Give what was measured before; nothing if that never was."""
    try:
        known = json.loads(record.read_text(encoding="utf-8"))["median_ms"]
        return {name: float(ms) for name, ms in known.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, LookupError, AttributeError, TypeError) as error:
        _log.warning("%s cannot be read, so it is measured again: %s", record, error)
        return {}


def _write(record: Path, content: Mapping[str, Any]) -> None:
    """Keep what was measured, whole or not at all, however many do so at once."""
    try:
        record.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=record.parent, prefix=".runtimes-") as scratch:
            written = Path(scratch, record.name)
            written.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
            written.replace(record)
    except OSError as error:
        _log.warning("what was measured is not remembered: %s; WINNOW_CACHE names another folder", error)
