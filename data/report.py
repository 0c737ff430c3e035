"""all that the stages found, decided and measured → dataset quality report.

python -m winnow.data.report --gate REPORT.json …            exit code 1 if a gate fails
python -m winnow.data.report --accept REPORT.json ACCEPTED   what later reports are compared with
"""

import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from winnow.data import stage, store
from winnow.data.modality import Modality
from winnow.data.pages import (
    acceptance,
    atlas,
    chapters,
    effects,
    findings,
    gates,
    loop,
    page,
    previews,
    probes,
    provenance,
    questions,
    retention,
    schema,
    wording,
)
from winnow.data.pages.gates import Limits, told
from winnow.data.stage import run

_log = logging.getLogger(__name__)
_DOTS = 12  # slices drawn, the worst first


def main(
    modality: Modality,
    ingest: Path,
    root: Path,
    accepted: Path,
    out: Path,
    *,
    rounds: list[int],
    examples: int,
    map_samples: int,
    min_group: int,
    gates: dict[str, Limits],
    seed: int,
) -> None:
    """Report what is wrong with a dataset, what was done about it, and what that bought.

    Args:
        modality: shows the samples.
        ingest: samples, manifest, rejects and the truth, which no other stage reads.
        root: folder that holds `audit@r`, `curate@r` and `probe@r` of every round r, `probe@0`,
            `embed`, `drift` and `effect`.
        accepted: the last accepted report; `{}` before the first.
        out: folder for `report.html`, `report.json` and `metrics.json`.
        rounds: numbers of the rounds, in their order.
        examples: samples shown in a section, at most.
        map_samples: samples on the map of embeddings, at most.
        min_group: samples of a group below which its retention is not judged.
        gates: limits by the name of a gate.
        seed: of the map.

    Raises:
        BadInput: if there is no gate of a name.
        ValueError: if a decision touches the test split, tables are about different samples, or
            the report breaks its own schema.
    """
    report = gather(
        modality, ingest, root, accepted,
        rounds=rounds, examples=examples, map_samples=map_samples, min_group=min_group, seed=seed,
    )  # fmt: skip
    judge(report, accepted, gates)
    made = previews.make(modality, ingest, report)
    report["previews"] = {"shown": len(made), "left_out": len(previews.shown_ids(report)) - len(made)}
    report = page.rounded(report)
    schema.require_valid(report)
    store.write_json(out / "report.json", report)
    # Of what was written, and not of what was meant to be: the page says what the file says.
    report = store.read_json(out / "report.json")
    (out / "report.html").write_text(render(report, made), encoding="utf-8")
    store.write_json(out / "metrics.json", metrics(report))
    for gate in report["gates"]:
        _log.info("%-8s %s", gate["status"], told(gate))


def gather(
    modality: Modality,
    ingest: Path,
    root: Path,
    accepted: Path,
    *,
    rounds: Sequence[int],
    examples: int,
    map_samples: int,
    min_group: int,
    seed: int,
) -> dict[str, Any]:
    """Collect all that the report says, but for its gates, as JSON."""
    manifest = store.read_table(ingest / "manifest.parquet")
    truth = store.read_table(ingest / "truth.parquet")[["id", "label"]]
    rejected = store.read_table(ingest / "rejects.parquet")
    judged = {}
    for number in rounds:
        issues = store.read_table(root / f"audit@{number}" / "issues.parquet")
        decisions = store.read_table(root / f"curate@{number}" / "decisions.parquet")
        judged[number] = findings.join(manifest, truth, issues, decisions)
        loop.refuse_touched_test(judged[number], number)
    last = rounds[-1]
    table, probed = judged[last], probes.read(root, rounds)
    report: dict[str, Any] = {
        "schema_version": schema.VERSION,
        "dataset": _dataset(root.name, type(modality).__name__, manifest, rejected, previews.sizes(ingest)),
        "provenance": provenance.read(root.name, stage.PARAMS),
        "test_split": _test_split(manifest, rounds),
        "probes": probed,
        "pretraining": probes.against_baselines(probed[-1]["measured"]),
        "effect": effects.read(root),
        "noise": loop.noise(judged),
        "rounds": [
            loop.tell(root / f"audit@{number}", number, one, examples, number == last)
            for number, one in judged.items()
        ],
        **loop.last_chapters(root / f"audit@{last}", last),
        "confusion": retention.confusion(table),
        "groups": retention.groups(table, min_group),
        "map": atlas.draw(table, root / "embed" / "embeddings", samples=map_samples, seed=seed),
        "drift": chapters.drift(root),
        "profile": chapters.profile(root),
        "queue": chapters.queue(root / f"curate@{last}", examples),
        "log": chapters.log(root / f"curate@{last}"),
        "rejects": findings.rejects(rejected, examples),
        "flagged": acceptance.flagged(table),
    }
    report["queue"]["head"] = findings.named(table, report["queue"]["head"])
    report["diff"] = acceptance.compare(accepted, report, manifest["id"].tolist(), examples)
    return report


def judge(report: dict[str, Any], accepted: Path, limits: Mapping[str, Limits]) -> None:
    """Add the gates, the verdict, and the state of each section."""
    report["gates"] = gates.judge(report, limits, questions.GATES)
    report["verdict"] = gates.verdict(report["gates"])
    if report["diff"]["status"] == chapters.OK:
        report["diff"]["gates"] = acceptance.compare_gates(accepted, report["gates"])
    report["sections"] = [_section(report, *section) for section in questions.SECTIONS]


def _section(
    report: Mapping[str, Any], key: str, letter: str, title: str, own: Sequence[str]
) -> dict[str, Any]:
    """Give a section the status that needs attention first, with its reason."""
    parts = [(report[name]["status"], report[name]["reason"]) for name in own]
    parts += [(gate["status"], told(gate)) for gate in report["gates"] if gate["section"] == key]
    status = gates.worst(status for status, _ in parts) if parts else chapters.OK
    reason = "; ".join(reason for one, reason in parts if one == status and reason)
    status = chapters.OK if status == gates.PASS else status
    return {
        "key": key,
        "letter": letter,
        "title": title,
        "status": status,
        "reason": "" if status == chapters.OK else reason,
    }


def _dataset(
    name: str, modality: str, manifest: pd.DataFrame, rejected: pd.DataFrame, sizes: Mapping[str, int]
) -> dict[str, Any]:
    labelled, size = manifest["label"].notna(), manifest["id"].map(sizes)
    splits = [
        {
            "split": split,
            "n": int(here.sum()),
            "labelled": int((here & labelled).sum()),
            "bytes": int(size[here].sum()),
        }
        for split in store.SPLITS
        if (here := manifest["split"] == split).any()
    ]
    return {
        "name": name,
        "modality": modality,
        "samples": len(manifest),
        "inputs": len(manifest) + len(rejected),
        "rejects": len(rejected),
        "labelled": int(labelled.sum()),
        "labelled_share": float(labelled.mean()) if len(manifest) else None,
        "classes": int(manifest["label"].dropna().nunique()),
        "groups": int(manifest["group"].dropna().nunique()),
        "bytes": int(size.sum()),
        "splits": splits,
        "fingerprint": findings.fingerprint(manifest),
    }


def _test_split(manifest: pd.DataFrame, rounds: Sequence[int]) -> dict[str, Any]:
    test = manifest[manifest["split"] == "test"]
    return {"n": len(test), "touched": 0, "fingerprint": findings.fingerprint(test), "rounds": list(rounds)}


def render(report: Mapping[str, Any], shown: Mapping[str, str]) -> str:
    """Write the page: a function of the report's JSON and the previews, and of nothing else."""
    return page.render(
        "report.html.jinja",
        report=report,
        previews=shown,
        curve=probes.curve(report["probes"]),
        states={section["key"]: section for section in report["sections"]},
        effect_curves=effects.all_curves(report["effect"]),
        slice_rows=[
            {**row, "label": f"{wording.words(row['by'])}: {row['slice']}", "value": row["error"]}
            for row in report["slices"]["rows"][:_DOTS]
        ],
        wrong=_wrong(report["noise"]),
        arm=effects.named,
        limit=gates.shown,
    )


def _wrong(noise: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "label": f"round {row['round']}" if row["round"] else "as delivered",
            "note": f"{wording.count(row['wrong'])} of {wording.count(row['labelled'])}",
            **(row["share"] or {"value": None}),
        }
        for row in noise
    ]


def metrics(report: Mapping[str, Any]) -> dict[str, int | float]:
    """Flatten what `dvc metrics diff` should show; what is not known has no entry."""
    found: dict[str, Any] = {
        "samples": report["dataset"]["samples"],
        "rejects": report["dataset"]["rejects"],
        **{f"gates_{key}": report["verdict"][key] for key in ("pass", "warn", "fail", "skipped")},
    }
    for row in report["noise"]:
        name = f"round{row['round']}_wrong_labels" if row["round"] else "delivered_wrong_labels"
        found[name] = row["wrong"]
    for one in report["rounds"]:
        name, labels = f"round{one['round']}", one["labels"]
        found[f"{name}_label_issues"] = labels["flagged"]
        for score in ("precision", "recall"):
            found[f"{name}_label_{score}"] = labels[score] and labels[score]["value"]
        found[f"{name}_label_f1"] = labels["f1"]
        found[f"{name}_label_noise"] = one["judged_by"]["noise"].get("calibrated")
        found[f"{name}_outliers"] = one["outliers"]["n"]
        found[f"{name}_exact_duplicates"] = one["exact"]["samples"]
        found[f"{name}_near_duplicates"] = one["near"]["samples"]
        for action, past in (("keep", "kept"), ("relabel", "relabelled"), ("drop", "dropped")):
            found[f"{name}_{past}"] = one["decided"][action]
    if report["effect"]["headline"]:
        found["effect_points"] = report["effect"]["headline"]["value_points"]
    return {name: value for name, value in found.items() if value is not None}


if __name__ == "__main__":
    acceptance.command(sys.argv[1:])
    run(main)
