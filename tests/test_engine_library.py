import subprocess
import sys
from pathlib import Path

import pytest
from compiling import require_compiler

from winnow.compress.engine import library
from winnow.compress.engine.library import Unavailable

PLAIN = ("-O0",)  # compiles in a moment


def test_two_processes_that_build_at_once_leave_one_whole_library(tmp_path: Path) -> None:
    require_compiler()
    out = tmp_path / "cache" / "engine.so"
    code = f"""
from pathlib import Path
from winnow.compress.engine import library
import ctypes
library.build(Path({str(out)!r}), {PLAIN!r})
print(library.declare(ctypes.CDLL({str(out)!r})).winnow_instructions().decode())
"""
    running = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    said = [process.communicate()[0].split() for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert said[0] == said[1]
    assert said[0][-1] == "portable" and set(said[0]) <= set(library.built_for())
    assert list(out.parent.iterdir()) == [out]


def test_without_a_compiler_one_line_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(Unavailable, match=r"^no C\+\+ compiler \(c\+\+, g\+\+, clang\+\+\), .* needs once$"):
        library.locate()
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(Unavailable, match="CXX=no-such-compiler"):
        library.locate()


def test_a_compiler_that_fails_is_quoted(tmp_path: Path) -> None:
    require_compiler()
    with pytest.raises(Unavailable, match=r"does not compile the engine: .*error.*no-such-flag"):
        library.build(tmp_path / "engine.so", ("-fno-such-flag",))
    assert list(tmp_path.iterdir()) == []


def test_a_library_that_is_kept_is_not_built_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    require_compiler()
    monkeypatch.setenv("WINNOW_CACHE", str(tmp_path))
    monkeypatch.setattr(library, "FLAGS", (*library.FLAGS, *PLAIN))
    first = library.locate()
    assert first.parent == tmp_path
    made = first.stat().st_mtime_ns
    assert library.locate() == first and first.stat().st_mtime_ns == made
    # Other flags make another library.
    monkeypatch.setattr(library, "FLAGS", (*library.FLAGS, "-g0"))
    assert library.source_hash() not in first.name


def test_a_library_that_came_along_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sources = tmp_path / "engine"
    sources.mkdir()
    for path in (*library.SOURCES.glob("*.cpp"), *library.SOURCES.glob("*.h")):
        (sources / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(library, "SOURCES", sources)
    came = sources / f"engine-{library.source_hash()}.so"
    came.touch()
    assert library.locate() == came
    # One of other sources, which an older version left, is not.
    (sources / "engine.h").write_text("// changed")
    assert not (sources / f"engine-{library.source_hash()}.so").exists()
