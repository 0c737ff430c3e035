"""Wheels, as `pip wheel` makes them."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from compiling import require_compiler

from winnow.compress.engine import library

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what a wheel is made of: building leaves folders."""
    root = tmp_path_factory.mktemp("checkout")
    for name in ("pyproject.toml", "setup.py", "README.md"):
        shutil.copy(ROOT / name, root)
    for name in ("data", "ssl", "compress"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    return root


def wheel(checkout: Path, out: Path, **environment: str) -> Path:
    """Build a wheel as pip does, without pip, which would look for what it depends on."""
    code = f"import setuptools.build_meta as backend; backend.build_wheel({str(out)!r})"
    known = {**os.environ, **environment}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=checkout, env=known, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (made,) = out.glob("*.whl")
    return made


def engines(made: Path) -> list[str]:
    with zipfile.ZipFile(made) as file:
        assert "winnow/compress/engine/kernels.cpp" in file.namelist()
        return [name for name in file.namelist() if name.endswith(".so")]


def test_a_wheel_takes_the_engine_along_and_is_then_of_its_platform(checkout: Path, tmp_path: Path) -> None:
    require_compiler()
    fast = tmp_path / "fast"
    fast.write_text(f'#!/bin/sh\nexec {library.compiler()} "$@" -O0\n')  # compiles in a moment
    fast.chmod(0o755)
    made = wheel(checkout, tmp_path, CXX=str(fast))
    assert engines(made) == [f"winnow/compress/engine/{library.beside().name}"]
    *_, python, abi, platform = made.stem.split("-")
    assert (python, abi) == ("py3", "none") and platform != "any"

    # Without a compiler, what an earlier build left behind is not taken for this one's.
    (tmp_path / "pure").mkdir()
    made = wheel(checkout, tmp_path / "pure", CXX="no-such-compiler")
    assert engines(made) == [] and made.stem.endswith("-py3-none-any")
