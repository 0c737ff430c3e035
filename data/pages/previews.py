"""The samples that a report shows, and what a person sees of each."""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from winnow.data import store
from winnow.data.modality import Modality

_BYTES = 3_400_000  # of all previews on a page, which stays under 5 MB with them


def _examples(report: Mapping[str, Any]) -> Iterator[str]:
    """Go through the samples shown, once for each time, the most telling first."""
    last = report["rounds"][-1]
    for one in reversed(report["rounds"]):
        yield from (sample["id"] for sample in one["label_examples"])
    for found in (last["exact"], last["near"]):
        yield from (sample["id"] for group in found["shown"] for sample in group["members"])
    yield from (sample["id"] for sample in last["outliers"]["examples"])
    for check in last["checks"]:
        yield from (sample["id"] for sample in check["examples"])
    yield from (sample["id"] for sample in report["queue"]["head"])


def shown_ids(report: Mapping[str, Any]) -> list[str]:
    """Give the ids of the samples shown, each once."""
    return list(dict.fromkeys(_examples(report)))


def make(modality: Modality, ingest: Path, report: Mapping[str, Any]) -> dict[str, str]:
    """Make the previews of the samples shown, as many as the page has room for."""
    ids = shown_ids(report)
    if not ids:
        return {}
    made = {id_: lazy(modality.preview(payload)) for id_, payload in store.payloads(ingest, ids)}
    times = Counter(_examples(report))
    room, chosen = _BYTES, {}
    for id_ in ids:
        needed = times[id_] * len(made[id_].encode())
        if needed <= room:
            room -= needed
            chosen[id_] = made[id_]
    return chosen


def lazy(preview: str) -> str:
    """Let a browser decode an image when it comes into view, and not before."""
    return preview.replace("<img ", '<img loading="lazy" decoding="async" ')


def sizes(ingest: Path) -> dict[str, int]:
    """Measure the payload of every sample [bytes]."""
    return {id_: len(payload) for id_, payload in store.payloads(ingest)}
