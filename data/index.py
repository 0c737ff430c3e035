"""reports of all modalities → one page that leads to them, and the news that all is complete."""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from winnow.data import store
from winnow.data.pages import page, wording
from winnow.data.stage import BadInput, run

PAGES = {
    "data": ("report.html", "report.json", "Data quality report"),
    "model": ("card.html", "card.json", "Model report"),
}

_log = logging.getLogger(__name__)


def main(reports: Path, out: Path) -> str:
    """Write the page, and say in a few lines how everything went.

    Args:
        reports: folder that holds `<modality>/data/` and `<modality>/model/`.
        out: the page; its links are relative, so the folder of both can be moved as one.

    Returns:
        The headline numbers, one line for each modality, and where the page is.

    Raises:
        BadInput: if there is no report.
    """
    base = os.path.relpath(reports, out.parent)
    entries = [entry for folder in sorted(reports.iterdir()) if (entry := read(folder, base))]
    if not entries:
        raise BadInput(f"{reports} holds no report")
    out.write_text(page.render("index.html.jinja", entries=entries), encoding="utf-8")
    for entry in entries:
        for link in entry["links"]:
            _log.info("%s: %s", link["text"], out.parent / link["href"])
    return headline(entries)


def read(folder: Path, base: str) -> dict[str, Any] | None:
    """Collect what the page says of one modality; None if the folder holds no report.

    Args:
        folder: holds `data/` or `model/`, or both.
        base: path from the page to the folder of all reports.
    """
    found = {
        kind: store.read_json(folder / kind / json)
        for kind, (_, json, _) in PAGES.items()
        if (folder / kind / json).exists()
    }
    if not found:
        return None
    return {
        "name": folder.name,
        "slug": quote(folder.name),
        "links": [
            {
                "text": PAGES[kind][2],
                "href": quote(Path(base, folder.name, kind, PAGES[kind][0]).as_posix()),
            }
            for kind in found
        ],
        "data": _data(found["data"]) if "data" in found else None,
        "gates": found["data"]["gates"] if "data" in found else [],
        "model": _model(found["model"]) if "model" in found else None,
    }


def _data(report: Mapping[str, Any]) -> dict[str, Any]:
    last = report["rounds"][-1]
    return {
        "samples": report["dataset"]["samples"],
        "classes": report["dataset"]["classes"],
        "judged": last["labels"]["n"],
        "flagged": last["labels"]["flagged"],
        "changed": last["decided"]["relabel"] + last["decided"]["drop"],
        "precision": last["labels"]["precision"],
        "recall": last["labels"]["recall"],
        "effect": report["effect"]["headline"],
        "verdict": report["verdict"]["status"],
    }


def _model(card: Mapping[str, Any]) -> dict[str, Any]:
    """Take the last model, less its latency: what is timed differs from run to run."""
    small = card["models"][-1]
    return {key: small[key] for key in ("name", "accuracy", "difference", "size_bytes", "ratio")}


def headline(entries: Sequence[Mapping[str, Any]]) -> str:
    """Write the news in plain text, one line for each modality."""
    return "\n".join(_line(entry) for entry in entries)


def _line(entry: Mapping[str, Any]) -> str:
    said = []
    if data := entry["data"]:
        judged = wording.plural(data["judged"], "label")
        said.append(f"{wording.count(data['flagged'])} of {judged} suspected")
        if effect := data["effect"]:
            said.append(f"cleaning: {wording.points(effect['value_points'])} points ({effect['verdict']})")
    if model := entry["model"]:
        accuracy = wording.percent(model["accuracy"]["value"]) if model["accuracy"] else wording.NOTHING
        said.append(
            f"{model['name']}: {accuracy} at {wording.size(model['size_bytes'])}, "
            f"{wording.number(model['ratio'])} times smaller"
        )
    worst = [gate["title"] for gate in entry["gates"] if gate["status"] == "fail"]
    if worst:
        said.append("failed: " + ", ".join(worst))
    return f"{entry['name']}: " + "; ".join(said)


if __name__ == "__main__":
    run(main)
