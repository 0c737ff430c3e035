"""How large and how fast the data report is, at 100,000 samples, in headless Chromium.

    python -m bench.vitals [--samples 100000] [--runs 5] [--keep FOLDER]

Makes what the stages before the report leave behind, with thumbnails as large as fit, runs the stage,
and measures the page in a browser of its own: largest contentful paint, and layout shift while the
whole page is scrolled through. Prints a Markdown table beside the targets.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import fixture
from bench.browser import Browser
from winnow.data import report
from winnow.data.pages import gates, questions

WINDOWS = {"wide": (1280, 900), "narrow": (400, 860)}
# Runs before the page does, and sees every paint and shift; those that follow a scroll count as well.
OBSERVE = """
window.vitals = { lcp_ms: 0, element: "", shift: 0 };
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) {
    vitals.lcp_ms = entry.startTime;
    vitals.element = (entry.element?.tagName ?? "") + " " + (entry.element?.className ?? "");
  }
}).observe({ type: "largest-contentful-paint", buffered: true });
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) vitals.shift += entry.value;
}).observe({ type: "layout-shift", buffered: true });
"""
# Lets the page settle, then scrolls through all of it by half windows.
SCROLL = """
(async () => {
  const pause = (ms) => new Promise((done) => setTimeout(done, ms));
  await pause(600);
  const loaded_ms = performance.getEntriesByType("navigation")[0].loadEventStart;
  const found = { ...vitals, loaded_ms };
  for (let y = 0; y < document.body.scrollHeight; y += innerHeight / 2) {
    scrollTo({ top: y, behavior: "instant" });
    await pause(40);
  }
  await pause(300);
  return { ...found, shift: vitals.shift, elements: document.querySelectorAll("*").length };
})()
"""
TARGETS = {"html": 5_000_000, "lcp_ms": 1000, "shift": 0.02}


def main(argv: Sequence[str]) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.data vitals", description=__doc__)
    parser.add_argument("--samples", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--keep", type=Path, help="folder for what is made, instead of a temporary one")
    asked = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        root = asked.keep or Path(temporary)
        page, seconds = render(root, asked.samples)
        measured = {name: vitals(page, size, asked.runs) for name, size in WINDOWS.items()}
        print(table(page_size(page), seconds, asked.samples, measured))


def render(root: Path, samples: int) -> tuple[Path, float]:
    """Make a fixture and run the stage on it; give the page and how long the stage took [s]."""
    modality, home, accepted = fixture.write(root, samples)
    out = root / "report" / home.name / "data"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    limits = {name: gates.Limits(*limit) for name, limit in fixture.LIMITS.items()}
    missing = set(questions.GATES) - set(limits)
    if missing:
        raise ValueError(f"no limits for the gates {sorted(missing)}")
    started = time.perf_counter()
    report.main(
        modality, home / "ingest", home, accepted, out,
        rounds=[1, 2], examples=24, map_samples=1500, min_group=20, gates=limits, seed=0,
    )  # fmt: skip
    return out / "report.html", time.perf_counter() - started


def page_size(page: Path) -> dict[str, int]:
    """Measure the page and its JSON [bytes]."""
    return {kind: page.with_name(f"report.{kind}").stat().st_size for kind in ("html", "json")}


def vitals(page: Path, window: tuple[int, int], runs: int) -> dict[str, Any]:
    """Measure a page in fresh browsers; give the median of each number over the runs."""
    found = []
    for _ in range(runs):
        with Browser() as browser:
            browser.open(page, width=window[0], height=window[1], observe=OBSERVE)
            found.append(browser.run(SCROLL))
    numbers = {key: [one[key] for one in found] for key in found[0] if key != "element"}
    return {
        **{key: statistics.median(values) for key, values in numbers.items()},
        "worst_lcp_ms": max(numbers["lcp_ms"]),
        "worst_shift": max(numbers["shift"]),
        "element": found[-1]["element"],
    }


def table(size: dict[str, int], seconds: float, samples: int, measured: dict[str, dict[str, Any]]) -> str:
    """Write what was measured as Markdown."""
    rows = [
        (
            "report.html [bytes]",
            f"{size['html']:,}",
            f"at most {TARGETS['html']:,}",
            size["html"] <= TARGETS["html"],
        ),
        ("report.json [bytes]", f"{size['json']:,}", "", None),
        ("the stage [s]", f"{seconds:.1f}", "", None),
    ]
    for name, one in measured.items():
        paint = f"{one['lcp_ms']:.0f} (worst {one['worst_lcp_ms']:.0f})"
        shift = f"{one['shift']:.4f} (worst {one['worst_shift']:.4f})"
        rows += [
            (
                f"{name}: largest contentful paint [ms]",
                paint,
                "under 1,000",
                one["lcp_ms"] < TARGETS["lcp_ms"],
            ),
            (f"{name}: layout shift", shift, "under 0.02", one["shift"] < TARGETS["shift"]),
            (f"{name}: loaded [ms]", f"{one['loaded_ms']:.0f}, {one['elements']:,} elements", "", None),
        ]
    lines = [f"| {samples:,} samples | measured | target | |", "|---|---:|---|---|"]
    lines += [
        f"| {what} | {value} | {target} | {'' if met is None else 'met' if met else 'missed'} |"
        for what, value, target, met in rows
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
