"""Every variant that was tried, on one page: accuracy against bytes and against time.

    python -m winnow.compress.variants vision build/variants.html
    python -m winnow.compress.variants vision build/variants.html --all-commits

reads the workspace and the experiments that `dvc exp run` left, as `dvc exp show` does. It runs nothing.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from winnow.data.pages import page, pareto, wording
from winnow.data.stage import BadInput

NEEDED = ("name", "group", "accuracy", "bytes")
# Of an evaluation: whose accuracy, the bytes that it is shipped in, whose latency.
_KINDS = (
    ("teacher", "teacher_size_bytes", "teacher"),
    ("int8", "bundle_size_bytes", "int8"),
    ("control", "control_bundle_size_bytes", "control"),
)
_CHOICES = ("encoders", "sparse", "once", "controls")  # sections of params.yaml with a key for each modality


def render(title: str, lead: str, records: Sequence[Mapping[str, Any]]) -> str:
    """Write a page of variants: for each set charts with the Pareto front, and a table.

    Args:
        title: what was compared.
        lead: a sentence or two below it.
        records: each `name`, `group` (has a colour), `accuracy` [0–1], `bytes`; perhaps `low` and `high` of
            the accuracy, `ms` for one sample, `note`, and `set`: each set of data has charts of its own.

    Raises:
        ValueError: if a record lacks what every one has.
    """
    for number, record in enumerate(records):
        if missing := [key for key in NEEDED if key not in record]:
            raise ValueError(f"record {number}, {record.get('name')}, has no {', '.join(missing)}")
    names = dict.fromkeys(record.get("set", "") for record in records)
    chapters = [_chapter(name, [one for one in records if one.get("set", "") == name]) for name in names]
    return page.render("variants.html.jinja", title=title, lead=lead, chapters=chapters)


def _chapter(name: str, records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    optional = dict.fromkeys(("low", "high", "ms", "note"))
    return {"name": name, "rows": [{**optional, **row} for row in pareto.ranked(records)]}


def tried(modality: str, shown: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Give a record for each model that was evaluated.

    Args:
        modality: whose.
        shown: what `dvc exp show --json` prints: a row for the workspace and each commit, with experiments.
    """
    found: dict[str, dict[str, Any]] = {}
    params: dict[str, dict[str, Any]] = {}
    for revision in _revisions(shown):
        data = revision.get("data") or {}
        metrics = _file(data, "metrics", f"out/{modality}/evaluate/metrics.json")
        latency = _file(data, "metrics", f"out/{modality}/evaluate/latency.json")
        chosen = _chosen(_file(data, "params", "params.yaml"), modality)
        for group, size, timed in _KINDS:
            record = {
                "name": group if group != "int8" else revision.get("name") or revision["rev"][:7],
                "group": group,
                "accuracy": metrics.get(f"{group}_accuracy"),
                "low": metrics.get(f"{group}_accuracy_low"),
                "high": metrics.get(f"{group}_accuracy_high"),
                "bytes": metrics.get(size),
                "ms": latency.get(timed, {}).get("batch_1_median_ms"),
            }
            if not (wording.known(record["accuracy"]) and wording.known(record["bytes"])):
                continue
            # The workspace is often one of the experiments, and most share a teacher: each stands there once,
            # by the last name that it has.
            same = {key: value for key, value in record.items() if key != "name"}
            key = json.dumps([same, chosen if group == "int8" else None], sort_keys=True)
            found[key] = record
            params[key] = chosen
    several = {key: chosen for key, chosen in params.items() if found[key]["group"] == "int8"}
    differing = _differing(list(several.values()))
    for key, chosen in several.items():
        found[key]["note"] = ", ".join(f"{name}={json.dumps(chosen.get(name))}" for name in differing)
    return list(found.values())


def _revisions(shown: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Give the workspace, the commits and the last state of every experiment."""
    for row in shown:
        yield row
        for experiment in row.get("experiments") or ():
            yield from (experiment.get("revs") or ())[:1]


def _file(data: Mapping[str, Any], kind: str, path: str) -> dict[str, Any]:
    # What DVC could not read has an `error` in place of `data`.
    return ((data.get(kind) or {}).get(path) or {}).get("data") or {}


def _chosen(params: Mapping[str, Any], modality: str) -> dict[str, Any]:
    chosen = {name: (params.get(name) or {}).get(modality) for name in _CHOICES}
    return dict(_flat({**(params.get(modality) or {}), **chosen}, ()))


def _flat(section: Any, path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    if not isinstance(section, Mapping):
        yield ".".join(path), section
        return
    for key, value in section.items():
        yield from _flat(value, (*path, str(key)))


def _differing(sections: Sequence[Mapping[str, Any]]) -> list[str]:
    names = sorted({name for section in sections for name in section})
    return [name for name in names if len({json.dumps(section.get(name)) for section in sections}) > 1]


def ask_dvc(*, all_commits: bool) -> list[dict[str, Any]]:
    """Give what `dvc exp show --json` prints in the working directory.

    Args:
        all_commits: also of commits before this one, and of other branches.

    Raises:
        BadInput: if DVC cannot tell; with what it says.
    """
    from dvc.exceptions import DvcException  # a second, which whoever only draws need not wait
    from dvc.repo import Repo

    try:
        with Repo() as repo:
            return [state.dumpd() for state in repo.experiments.show(all_commits=all_commits)]
    except DvcException as error:
        raise BadInput(f"DVC shows no experiments: {error}") from error


def main() -> None:
    """Write the page that the command line asks for."""
    parser = argparse.ArgumentParser(
        prog="python -m winnow.compress.variants",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("modality", help="a name in params.yaml")
    parser.add_argument("out", type=Path, help="the page")
    parser.add_argument("--all-commits", action="store_true", help="also earlier ones and other branches")
    asked = parser.parse_args()
    try:
        records = tried(asked.modality, ask_dvc(all_commits=asked.all_commits))
        if not records:
            raise BadInput(
                f"neither the workspace nor an experiment has out/{asked.modality}/evaluate/metrics.json: "
                f"dvc repro evaluate@{asked.modality} makes it, "
                f"dvc exp run -S {asked.modality}.prune.sparsity=0.9 evaluate@{asked.modality} another"
            )
    except BadInput as error:
        sys.exit(f"variants: {error}")
    shipped = sum(record["group"] == "int8" for record in records)
    lead = f"{wording.plural(shipped, 'variant')} of the compressed model, with the teacher: what each costs."
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(render(asked.modality, lead, records), encoding="utf-8")
    print(asked.out)


if __name__ == "__main__":
    main()
