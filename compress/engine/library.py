"""The engine's shared library: built by the system's compiler when it is first needed, and kept.

A wheel that was made where there is a compiler brings it along, beside the sources; in a checkout,
`python -m winnow.compress.engine.library` builds it there.
"""

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from ctypes import POINTER, c_char_p, c_double, c_int32, c_int64, c_uint64, c_void_p
from functools import cache
from pathlib import Path

SOURCES = Path(__file__).parent
COMMON = ("engine.cpp", "model.cpp", "input.cpp", "plan.cpp")
KERNELS = "kernels.cpp"  # built once for each set of instructions; which of them runs is decided at run time
FLAGS = ("-std=c++17", "-O3", "-fPIC", "-fno-exceptions", "-fno-rtti", "-fvisibility=hidden", "-pthread")
# Its own C++ library stands in it, so that it does not matter which one a framework brought along.
ALONE = ("-static-libstdc++", "-static-libgcc", "-Wl,--exclude-libs,ALL")
INSTRUCTIONS: dict[str, tuple[str, ...]] = {
    "avx512_vnni": ("-mavx2", "-mfma", "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512vnni"),
    "avx_vnni": ("-mavx2", "-mfma", "-mavxvnni"),
    "avx2": ("-mavx2", "-mfma"),
    "portable": (),
}
COMPILERS = ("c++", "g++", "clang++")

_log = logging.getLogger(__name__)


class Sizes(ctypes.Structure):
    """What a model takes and gives; `winnow_sizes` of engine.h."""

    _fields_ = tuple((name, c_int64) for name in ("dim", "tokens", "extra", "classes", "input", "columns"))
    dim: int
    tokens: int
    extra: int
    classes: int
    input: int
    columns: int


class Unavailable(RuntimeError):
    """The engine cannot be built or loaded here; what else runs the model serves instead."""


def built_for() -> tuple[str, ...]:
    """Name the sets of instructions that a library for this kind of processor holds."""
    return tuple(INSTRUCTIONS) if platform.machine() in ("x86_64", "AMD64") else ("portable",)


def compiler() -> str:
    """Find the system's C++ compiler; the environment's CXX comes first.

    Raises:
        Unavailable: if there is none.
    """
    named = os.environ.get("CXX")
    for name in (named,) if named else COMPILERS:
        if found := shutil.which(name):
            return found
    looked = f"CXX={named}" if named else ", ".join(COMPILERS)
    raise Unavailable(f"no C++ compiler ({looked}), which the engine needs once")


def source_hash() -> str:
    """Name what the library is made from."""
    digest = hashlib.sha256()
    for path in sorted([*SOURCES.glob("*.cpp"), *SOURCES.glob("*.h")]):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    digest.update(repr((FLAGS, ALONE, INSTRUCTIONS, built_for())).encode())
    return digest.hexdigest()[:16]


def beside() -> Path:
    """Name the file of a library that comes along with its sources."""
    return SOURCES / f"engine-{source_hash()}.so"


def cache_folder() -> Path:
    """Give the folder that libraries are kept in: WINNOW_CACHE, or the user's cache."""
    if named := os.environ.get("WINNOW_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "winnow"


def build(out: Path, extra: tuple[str, ...] = ()) -> None:
    """Compile the library; it stands at its place when it is complete, however many build it at once.

    Args:
        out: its file.
        extra: flags besides, for sanitizers.

    Raises:
        Unavailable: if there is no compiler, or it fails, or the file cannot be written.
    """
    command = compiler()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        place = tempfile.TemporaryDirectory(dir=out.parent, prefix=".engine-")
    except OSError as error:
        raise Unavailable(f"no place to build the engine in: {error}; WINNOW_CACHE names one") from error
    with place as scratch:
        parts = {Path(scratch, f"{name}.o"): [str(SOURCES / name)] for name in COMMON}
        for name in built_for():
            flags = [f"-DINSTRUCTIONS_{name}", *INSTRUCTIONS[name]]
            parts[Path(scratch, f"{name}.o")] = [*flags, str(SOURCES / KERNELS)]
        compiling = [command, *FLAGS, *extra, "-c"]
        running = [
            subprocess.Popen([*compiling, *arguments, "-o", str(part)], stderr=subprocess.PIPE, text=True)
            for part, arguments in parts.items()
        ]
        said = [process.communicate()[1] for process in running]
        for process, text in zip(running, said, strict=True):
            if process.returncode:
                raise Unavailable(f"{command} does not compile the engine: {_last(text)}")
        library = Path(scratch, "engine.so")
        link = [command, "-shared", "-pthread", *extra, *map(str, parts), "-o", str(library)]
        # Where the C++ library is not there to be linked in, the system's shared one has to do.
        for alone in ((),) if extra else (ALONE, ()):
            done = subprocess.run([*link, *alone], stderr=subprocess.PIPE, text=True)
            if not done.returncode:
                break
        else:
            raise Unavailable(f"{command} does not link the engine: {_last(done.stderr)}")
        library.replace(out)


def _last(text: str) -> str:
    errors = [line for line in text.splitlines() if "error" in line.lower()]
    return (errors or text.splitlines() or ["it says nothing"])[0]


def locate() -> Path:
    """Give the library's file: the one that came along, or one that is built now and kept.

    Raises:
        Unavailable: if there is none and it cannot be built.
    """
    if (came := beside()).exists():
        return came
    version = subprocess.run([compiler(), "--version"], capture_output=True, text=True).stdout
    name = hashlib.sha256((source_hash() + version).encode()).hexdigest()[:16]
    kept = cache_folder() / f"engine-{name}.so"
    if not kept.exists():
        _log.info("the engine is compiled, once: %s", kept)
        build(kept)
    return kept


@cache
def load() -> ctypes.CDLL:
    """Load the library, and tell ctypes what its functions take.

    Raises:
        Unavailable: if it cannot be built or loaded.
    """
    path = locate()
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise Unavailable(f"the engine does not load: {error}") from error
    return declare(library)


def declare(library: ctypes.CDLL) -> ctypes.CDLL:
    """Tell ctypes what the functions of engine.h take and give."""
    error = (c_char_p, c_uint64)
    # Addresses of arrays are passed as numbers, which NumPy's `ctypes.data` gives.
    library.winnow_instructions.restype = c_char_p
    library.winnow_open.argtypes = (c_void_p, c_uint64, c_char_p, c_int32, *error)
    library.winnow_open.restype = c_void_p
    library.winnow_close.argtypes = (c_void_p,)
    library.winnow_close.restype = None
    library.winnow_measure.argtypes = (c_void_p, POINTER(Sizes))
    library.winnow_measure.restype = None
    library.winnow_run.argtypes = (
        *(c_void_p, c_void_p, c_uint64, c_void_p),
        *(c_int64, c_int64),
        *(c_void_p, c_void_p),
        *error,
    )
    library.winnow_run.restype = c_int32
    library.winnow_product.argtypes = (
        *(c_void_p, c_uint64, c_char_p),
        *(c_void_p, c_int64),
        *(c_void_p, c_uint64),
        *(c_int32, c_void_p),
        *error,
    )
    library.winnow_product.restype = c_int32
    library.winnow_peak.argtypes = (c_char_p,)
    library.winnow_peak.restype = c_double
    return library


if __name__ == "__main__":
    build(beside())
    print(beside(), file=sys.stderr)
