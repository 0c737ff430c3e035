"""What the engine's tests need of a machine; where that is missing they are skipped, and say so."""

import subprocess
from pathlib import Path

import pytest

from winnow.compress.engine import library


def require_compiler() -> None:
    """Skip a test, or a whole module while it is imported, where nothing can be compiled."""
    try:
        library.compiler()
    except library.Unavailable as missing:
        pytest.skip(str(missing), allow_module_level=True)


def require_flags(flags: tuple[str, ...], folder: Path) -> None:
    """Skip a test where not even an empty program can be built with these flags: no sanitizers are there."""
    source = folder / "empty.cpp"
    source.write_text("int main() { return 0; }\n")
    command = [library.compiler(), *flags, str(source), "-o", str(folder / "empty")]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip(f"the compiler builds nothing with {' '.join(flags)}")
