"""Numbers and texts as a person reads them on a page."""

import math
import re
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

Number = int | float

NOTHING = "–"  # shown for what is not known; a zero is always written as 0
_THIN = "\u202f"  # narrow no-break space between a number and its unit
_FOLDERS = re.compile(r"""(?<![\w.:/<])(?:file://+|/|[A-Za-z]:[/\\]|\\\\)(?:[^/\\\s'"]+[/\\])+""")


def known(value: Any) -> bool:
    """Tell whether a value is a number that can be shown."""
    # Beyond 1e100 sums and squares on the way to a drawing overflow; no measure is as large.
    return isinstance(value, int | float) and abs(value) < 1e100


def count(value: Number | None) -> str:
    """Write a number of things: 12,345."""
    return f"{value:,.0f}" if known(value) else NOTHING


def percent(share: Number | None, digits: int = 1) -> str:
    """Write a share [0–1] as percent: 95.3 %."""
    if not known(share):
        return NOTHING
    return f"{_signless(share * 100, digits)}{_THIN}%"  # type: ignore[operator]


def percent_range(low: Number | None, high: Number | None, digits: int = 1) -> str:
    """Write an interval of shares [0–1]: 94.1–96.4 %."""
    if not (known(low) and known(high)):
        return NOTHING
    ends = (_signless(end * 100, digits) for end in (low, high))  # type: ignore[operator]
    return "–".join(ends) + f"{_THIN}%"


def points(value: Number | None, digits: int = 1) -> str:
    """Write a difference in percentage points with its sign: +1.2."""
    if not known(value):
        return NOTHING
    shown = _signless(value, digits)  # type: ignore[arg-type]
    return shown.replace("-", "−") if float(shown) <= 0 else f"+{shown}"


def points_range(low: Number | None, high: Number | None, digits: int = 1) -> str:
    """Write an interval of differences in percentage points: −0.3 to +1.9."""
    if not (known(low) and known(high)):
        return NOTHING
    return f"{points(low, digits)} to {points(high, digits)}"


def number(value: Number | None, digits: int = 3) -> str:
    """Write a measured number with so many significant digits: 0.0312."""
    if not known(value):
        return NOTHING
    if value == 0:
        return "0"
    size = math.floor(math.log10(abs(value)))  # type: ignore[arg-type]
    if size >= 9 or size < -4:
        return f"{value:.{digits - 1}e}".replace("-", "−")
    shown = f"{value:,.{max(digits - 1 - size, 0)}f}"
    if "." in shown:
        shown = shown.rstrip("0").rstrip(".")
    return shown.replace("-", "−")


def size(size_bytes: Number | None) -> str:
    """Write a size: 1.21 MB, in steps of a thousand."""
    if not known(size_bytes):
        return NOTHING
    scaled, unit = float(size_bytes), "B"  # type: ignore[arg-type]
    for larger in ("kB", "MB", "GB", "TB"):
        if abs(scaled) < 999.5:
            break
        scaled, unit = scaled / 1000, larger
    return f"{number(scaled)}{_THIN}{unit}"


def words(name: str) -> str:
    """Write an identifier as words: `near_duplicate` → near duplicate."""
    return name.replace("_", " ")


def plural(value: int, noun: str, several: str = "") -> str:
    """Write a number with its noun: 1 sample, 2 samples."""
    return f"{count(value)} {noun if value == 1 else several or noun + 's'}"


def without_folders(text: str) -> str:
    """Take the folders off absolute paths in a text: a report leaves the building."""
    return _FOLDERS.sub("…/", text)


def file_name(source: str) -> str:
    """Take the folders off a source that is an absolute path: they say whose machine it was."""
    for kind in (PurePosixPath, PureWindowsPath):
        path = kind(source.removeprefix("file://"))
        if path.is_absolute():
            return f"…/{path.name}"
    return without_folders(source)


def _signless(value: Number, digits: int) -> str:
    """Round, and never write -0."""
    return f"{round(value, digits) + 0.0:.{digits}f}"
