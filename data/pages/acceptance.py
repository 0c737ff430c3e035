"""The last accepted report: what changed since, accepting a new one, and gates for a build server.

`python -m winnow.data.report --gate REPORT…` prints every gate and exits with 0 (pass, warn), 1 (a gate
fails) or 2 (no valid report). `--accept REPORT ACCEPTED` makes a report the one that later ones are
compared with.
"""

import argparse
import base64
import hashlib
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from winnow.data import store
from winnow.data.pages import gates, page, schema
from winnow.data.stage import BadInput

_BYTES = 6  # of an id's hash: one in 10^9 that two of 500,000 share theirs
_CHARACTERS = 8  # that these take in base64
EMPTY: Mapping[str, Any] = {"new": None, "resolved": None, "checks": [], "gates": [], "counts": []}
_COUNTS = {
    "inputs": lambda report: report["dataset"]["inputs"],
    "rejects": lambda report: report["dataset"]["rejects"],
    "samples": lambda report: report["dataset"]["samples"],
    "labels suspected": lambda report: report["rounds"][-1]["labels"]["flagged"],
    "outliers": lambda report: report["rounds"][-1]["outliers"]["n"],
    "equal samples": lambda report: report["rounds"][-1]["exact"]["samples"],
    "near duplicates": lambda report: report["rounds"][-1]["near"]["samples"],
    "kept": lambda report: report["rounds"][-1]["decided"]["keep"],
    "relabelled": lambda report: report["rounds"][-1]["decided"]["relabel"],
    "dropped": lambda report: report["rounds"][-1]["decided"]["drop"],
}


def flagged(table: pd.DataFrame) -> dict[str, str]:
    """Write down which samples each check flags, so that the next report can tell what is new.

    Returns:
        For each check the hashes of the ids, sorted and joined: 8 characters each.
    """
    flags = {name.removeprefix("is_"): table[name].astype(bool) for name in table if name.startswith("is_")}
    flags |= {
        "near_duplicate": table["near_duplicate_set"] >= 0,
        "exact_duplicate": table["exact_duplicate_set"] >= 0,
    }
    return {name: "".join(sorted(map(_short, table.loc[flag, "id"]))) for name, flag in sorted(flags.items())}


def _short(id_: str) -> str:
    return base64.b64encode(hashlib.blake2b(id_.encode(), digest_size=_BYTES).digest()).decode()


def _ids(joined: str) -> set[str]:
    return {joined[at : at + _CHARACTERS] for at in range(0, len(joined), _CHARACTERS)}


def compare(accepted: Path, report: Mapping[str, Any], ids: Sequence[str], examples: int) -> dict[str, Any]:
    """Say what changed since the last accepted report.

    Args:
        accepted: that report; `{}` before the first.
        report: the new one, all but its gates.
        ids: of all samples now.
        examples: new issues of a check that are named, at most.

    Returns:
        For each check the new issues, the resolved ones, and those whose sample is gone; counts then
        and now. `compare_gates` adds the gates.
    """
    before = store.read_json(accepted)
    if not before:
        return {**EMPTY, "status": "skipped", "reason": "no report was accepted yet"}
    version = before.get("schema_version")
    if version != schema.VERSION:
        reason = f"the accepted report has schema version {version}, not {schema.VERSION}: accept a new one"
        return {**EMPTY, "status": "error", "reason": reason}
    name = {_short(id_): id_ for id_ in ids}
    rows = []
    for check in sorted({*before["flagged"], *report["flagged"]}):
        then = _ids(before["flagged"].get(check, ""))
        now = _ids(report["flagged"].get(check, ""))
        fresh = sorted(name[one] for one in now - then)
        gone = {one for one in then if one not in name}
        row = {"check": check, "then": len(then), "now": len(now), "new": len(fresh)}
        rows.append(
            {**row, "resolved": len(then - now - gone), "gone": len(gone), "new_ids": fresh[:examples]}
        )
    return {
        "status": "ok",
        "reason": "",
        "new": sum(row["new"] for row in rows),
        "resolved": sum(row["resolved"] + row["gone"] for row in rows),
        "checks": rows,
        "gates": [],
        "counts": [
            {"name": text, "then": look(before), "now": look(report)} for text, look in _COUNTS.items()
        ],
    }


def compare_gates(accepted: Path, found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Give the gates whose status changed since the last accepted report."""
    then = {gate["name"]: gate for gate in store.read_json(accepted).get("gates", [])}
    now = {gate["name"]: gate for gate in found}
    return [
        {
            "title": {**then, **now}[name]["title"],
            "then": then[name]["status"] if name in then else None,
            "now": now[name]["status"] if name in now else None,
        }
        for name in dict.fromkeys([*now, *then])
        if then.get(name, {}).get("status") != now.get(name, {}).get("status")
    ]


def load(path: Path) -> dict[str, Any]:
    """Read a report that somebody hands in.

    Raises:
        BadInput: if it is absent, no JSON, or no report of this version.
    """
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        schema.require_valid(report)
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:  # of JSON, of its encoding, or of the schema
        raise BadInput(f"{path} is no report of schema version {schema.VERSION}: {error}") from error
    return report


def command(argv: Sequence[str]) -> None:
    """Do what `--gate` and `--accept` ask for, and leave; return if neither is asked for.

    Raises:
        SystemExit: with the exit code.
    """
    if not {"--gate", "--accept"} & set(argv):
        return
    parser = argparse.ArgumentParser(
        prog="python -m winnow.data.report",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument("--gate", nargs="+", type=Path, metavar="REPORT", help="judge reports by their gates")
    asked.add_argument("--accept", nargs=2, type=Path, metavar=("REPORT", "ACCEPTED"), help="accept a report")
    words = parser.parse_args(argv)
    try:
        sys.exit(_gate(words.gate) if words.gate else _accept(*words.accept))
    except BadInput as error:
        print(f"report: {error}", file=sys.stderr)
        sys.exit(2)


def _gate(paths: Sequence[Path]) -> int:
    reports = [load(path) for path in paths]
    for path, report in zip(paths, reports, strict=True):
        print(f"{report['dataset']['name']}: {report['verdict']['status']}  ({path})")
        rows = [("status", "gate", "value", "warn", "fail", ""), *map(_row, report["gates"])]
        wide = [max(len(row[i]) for row in rows) for i in range(5)]
        for row in rows:
            cells = "  ".join(cell.ljust(w) for cell, w in zip(row, wide, strict=False))
            print(page.visible(f"  {cells}  {row[5]}"))
    return int(any(report["verdict"]["status"] == gates.FAIL for report in reports))


def _row(gate: Mapping[str, Any]) -> tuple[str, ...]:
    sign = "> " if gate["rule"] == gates.AT_MOST else "< "
    limits = [
        "never" if gate[key] is None else sign + gates.shown(gate[key], gate["unit"])
        for key in ("warn", "fail")
    ]
    return (gate["status"], gate["name"], gates.shown(gate["value"], gate["unit"]), *limits, gate["text"])


def _accept(report: Path, accepted: Path) -> int:
    made = load(report)
    accepted.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(report, accepted)
    print(f"{accepted}: {made['dataset']['name']} as of now; commit it, and later reports compare with it")
    return 0
