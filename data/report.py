"""samples, issues, decisions and probes of all rounds → dataset quality report."""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from winnow.data import claims, findings, page, probes, store, wording
from winnow.data.modality import Modality
from winnow.data.stage import run

_log = logging.getLogger(__name__)
_PREVIEW_BYTES = 3_600_000  # of all previews on a page, which stays under 5 MB with them


def main(
    modality: Modality, ingest: Path, root: Path, out: Path, *, rounds: list[int], examples: int
) -> None:
    """Report what is wrong with a dataset, what was done about it, and what that bought.

    Args:
        modality: shows the samples.
        ingest: samples, manifest, rejects and the truth, which no other stage reads.
        root: folder that holds `audit@r`, `curate@r` and `probe@r` of every round r, and `probe@0`.
        out: folder for `report.html`, `report.json` and `metrics.json`.
        rounds: numbers of the rounds, in their order.
        examples: samples shown in a section, at most.

    Raises:
        ValueError: if a decision touches the test split, or tables are about different samples.
    """
    report = gather(ingest, root, rounds, examples, type(modality).__name__)
    previews = preview(modality, ingest, report)
    report["previews"] = {
        "shown": len(previews),
        "left_out": len(shown_ids(report)) - len(previews),
    }
    report = page.rounded(report)
    store.write_json(out / "report.json", report)
    (out / "report.html").write_text(render(report, previews), encoding="utf-8")
    store.write_json(out / "metrics.json", metrics(report))
    for gate in report["gates"]:
        _log.info("%-8s %s: %s", gate["status"], gate["name"], gate["text"])


def gather(ingest: Path, root: Path, rounds: Sequence[int], examples: int, modality: str) -> dict[str, Any]:
    """Collect all that the report says, as JSON."""
    manifest = store.read_table(ingest / "manifest.parquet")
    truth = store.read_table(ingest / "truth.parquet")[["id", "label"]]
    rejected = store.read_table(ingest / "rejects.parquet")
    judged = {}
    for number in rounds:
        issues = store.read_table(root / f"audit@{number}" / "issues.parquet")
        decisions = store.read_table(root / f"curate@{number}" / "decisions.parquet")
        judged[number] = findings.join(manifest, truth, issues, decisions)
        refuse_touched_test(judged[number], number)
    probed = probes.read(root, rounds)
    report: dict[str, Any] = {
        "schema_version": 1,
        "dataset": _dataset(root.name, modality, manifest, rejected),
        "test_split": _test_split(manifest, rounds),
        "probes": probed,
        "effect": claims.gain(probed[0]["measured"]["linear"], probed[-1]["measured"]["linear"]),
        "pretraining": probes.against_baselines(probed[-1]["measured"]),
        "noise": _noise(judged),
        "rounds": [
            _round(root / f"audit@{number}", number, table, examples, number == rounds[-1])
            for number, table in judged.items()
        ],
        "rejects": findings.rejects(rejected, examples),
    }
    report["gates"] = claims.gates(report)
    return report


def refuse_touched_test(table: pd.DataFrame, number: int) -> None:
    """Check that a round left the test split as it was delivered.

    Raises:
        ValueError: if a test sample was dropped or its label changed.
    """
    test = table[table["split"] == "test"]
    same = (test["decided"] == test["given"]) | (test["decided"].isna() & test["given"].isna())
    touched = test.loc[(test["action"] != "keep") | ~same, "id"].tolist()
    if touched:
        raise ValueError(
            f"round {number} touches {len(touched)} samples of the test split, which nothing may "
            f"change: {touched[:3]}"
        )


def _dataset(name: str, modality: str, manifest: pd.DataFrame, rejected: pd.DataFrame) -> dict[str, Any]:
    labelled = manifest["label"].notna()
    splits = [
        {"split": split, "n": int(here.sum()), "labelled": int((here & labelled).sum())}
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
        "splits": splits,
        "fingerprint": findings.fingerprint(manifest),
    }


def _test_split(manifest: pd.DataFrame, rounds: Sequence[int]) -> dict[str, Any]:
    test = manifest[manifest["split"] == "test"]
    return {"n": len(test), "fingerprint": findings.fingerprint(test), "rounds": list(rounds)}


def _noise(judged: Mapping[int, pd.DataFrame]) -> list[dict[str, Any]]:
    """Follow the wrong labels over the rounds; empty where no wrong label is known."""
    first = next(iter(judged.values()))
    if not findings.planted(first).any():
        return []
    everything = pd.Series(True, index=first.index)
    rows = [{"round": 0, **findings.wrong_left(first, "given", everything)}]
    for number, table in judged.items():
        left = findings.wrong_left(table, "decided", table["action"] != "drop")
        rows.append({"round": number, **left})
    return rows


def _round(audit: Path, number: int, table: pd.DataFrame, examples: int, last: bool) -> dict[str, Any]:
    """Collect a round; samples that are much the same in all rounds are shown for the last."""
    summary = store.read_json(audit / "summary.json")
    shown = examples if last else 0
    counts = table["action"].value_counts()
    given = table["given"].dropna()
    return {
        "round": number,
        **{key: summary.get(key) for key in ("evidence", "model", "folds", "schemes")},
        "accuracy": claims.measured(summary, "oof_accuracy"),
        "largest_class": float(given.value_counts(normalize=True).iloc[0]) if len(given) else None,
        "labels": findings.labels(table),
        "label_examples": findings.label_examples(table, examples),
        "classes": findings.classes(table, summary.get("classes", [])),
        "confusions": findings.confusions(summary.get("confusions", [])),
        "outliers": findings.outliers(table, shown),
        "exact": findings.duplicates(table, "exact_duplicate_set", shown),
        "near": findings.duplicates(table, "near_duplicate_set", shown),
        "leakage": summary.get("leakage") or {},
        "checks": findings.checks(summary.get("checks", []), table, shown),
        "decided": {action: int(counts.get(action, 0)) for action in ("keep", "relabel", "drop")},
        "actions": findings.actions(table),
    }


def _examples(report: Mapping[str, Any]) -> Iterator[str]:
    """Go through the samples shown, once for each time, the most telling first."""
    last = report["rounds"][-1]
    for one in report["rounds"]:
        yield from (sample["id"] for sample in one["label_examples"])
    for found in (last["exact"], last["near"]):
        yield from (sample["id"] for group in found["shown"] for sample in group["members"])
    yield from (sample["id"] for sample in last["outliers"]["examples"])
    for check in last["checks"]:
        yield from (sample["id"] for sample in check["examples"])


def shown_ids(report: Mapping[str, Any]) -> list[str]:
    """Give the ids of the samples shown, each once."""
    return list(dict.fromkeys(_examples(report)))


def preview(modality: Modality, ingest: Path, report: Mapping[str, Any]) -> dict[str, str]:
    """Make the previews of the samples shown, as many as the page has room for."""
    ids = shown_ids(report)
    if not ids:
        return {}
    made = {id_: modality.preview(payload) for id_, payload in store.payloads(ingest, ids)}
    times = Counter(_examples(report))
    room, chosen = _PREVIEW_BYTES, {}
    for id_ in ids:
        needed = times[id_] * len(made[id_].encode())
        if needed <= room:
            room -= needed
            chosen[id_] = made[id_]
    return chosen


def render(report: Mapping[str, Any], previews: Mapping[str, str]) -> str:
    """Write the page: a function of the report's JSON and the previews, and of nothing else."""
    return page.render(
        "report.html.jinja",
        report=report,
        previews=previews,
        curve=probes.curve(report["probes"]),
        wrong=_wrong(report["noise"]),
        pairs=[
            {"label": f"{pair['given']} → {pair['suggested']}", "value": pair["n"]}
            for pair in report["rounds"][-1]["confusions"]
        ],
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
        found[f"{name}_outliers"] = one["outliers"]["n"]
        found[f"{name}_exact_duplicates"] = one["exact"]["samples"]
        found[f"{name}_near_duplicates"] = one["near"]["samples"]
        for action, past in (("keep", "kept"), ("relabel", "relabelled"), ("drop", "dropped")):
            found[f"{name}_{past}"] = one["decided"][action]
    if report["effect"]:
        found["effect_points"] = report["effect"]["value_points"]
    return {name: value for name, value in found.items() if value is not None}


if __name__ == "__main__":
    run(main)
