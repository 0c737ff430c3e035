"""Human decisions: a CSV in git, filled by hand, from the queue in a spreadsheet, or through Label Studio."""

import argparse
import csv
import io
import json
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from winnow.data import store
from winnow.data.deciding import label_studio, review_queue
from winnow.data.stage import BadInput

ACTIONS = ("keep", "relabel", "drop")
COLUMNS = ["id", "action", "label", "reviewer", "note", "stratum"]
_OLD = COLUMNS[:-1]  # reviews from before there were strata
_NAMED = 5  # ids in a message


class Review(NamedTuple):
    """One human decision.

    Attributes:
        line: of the file.
        id: of the sample.
        action: `keep`, `relabel` or `drop`.
        label: the new one, for `relabel`.
        reviewer: who decided.
        note: why.
        stratum: `suspect` or `blind`, as the queue drew the sample; "" if nobody drew it.
    """

    line: int
    id: str
    action: str
    label: str
    reviewer: str
    note: str
    stratum: str

    def changes(self, given: str | None) -> bool:
        """Say whether the delivered label, or the sample, turned out to be wrong."""
        return self.action == "drop" or (self.action == "relabel" and self.label != given)


def read(path: Path, manifest: pd.DataFrame) -> list[Review]:
    """Read decisions and check that each can be carried out; spreadsheets may have put a mark in front.

    Args:
        path: CSV of `id, action, label, reviewer, note, stratum`; the last column may be missing.
        manifest: `id, label, split`.

    Raises:
        BadInput: naming file, line and remedy.
    """
    rows = _index(manifest)
    classes = set(manifest["label"].dropna())
    seen: dict[str, int] = {}
    found = []
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = csv.DictReader(file)
        columns = lines.fieldnames
        if columns not in (COLUMNS, _OLD):
            raise BadInput(f"{path}: columns are {columns}, not {COLUMNS}; write these as the first line")
        for values in lines:
            where = f"{path}, line {lines.line_num}"
            if len(values) > len(columns) or None in values.values():
                raise BadInput(
                    f"{where}: not {len(columns)} values; a note with a comma in it needs quotes around it"
                )
            review = Review(lines.line_num, **{"stratum": "", **values})
            if review.id in seen:
                raise BadInput(
                    f"{where}: {review.id!r} was decided in line {seen[review.id]} already; remove one"
                )
            _check(review, where, rows, classes, manifest)
            seen[review.id] = review.line
            found.append(review)
    return found


def _index(manifest: pd.DataFrame) -> dict[str, int]:
    return {id_: row for row, id_ in enumerate(manifest["id"])}


def _check(
    review: Review, where: str, rows: dict[str, int], classes: set[str], manifest: pd.DataFrame
) -> None:
    if review.id not in rows:
        raise BadInput(f"{where}: no sample has the id {review.id!r}; remove the line")
    if review.action not in ACTIONS:
        raise BadInput(f"{where}: action {review.action!r} is none of {ACTIONS}")
    if review.stratum not in ("", *review_queue.STRATA):
        raise BadInput(f"{where}: stratum {review.stratum!r} is none of {review_queue.STRATA}, nor empty")
    if manifest.at[rows[review.id], "split"] == "test":
        raise BadInput(
            f"{where}: {review.id} is a test sample; the test split is never changed here. "
            "Mend it at the source, and it is a new test split"
        )
    if review.action == "relabel" and review.label not in classes:
        raise BadInput(f"{where}: label {review.label!r} is none of {sorted(classes)}")


def append(path: Path, new: Iterable[Review], manifest: pd.DataFrame) -> tuple[int, int]:
    """Add decisions to the file; what it has already is not added again.

    Args:
        path: the CSV.
        new: decisions; of each, `line` says where it came from.
        manifest: `id, label, split`.

    Returns:
        How many were added, and how many were there already.

    Raises:
        BadInput: if a decision contradicts one in the file, or cannot be carried out. Then nothing is
            written.
    """
    old = {review.id: review for review in read(path, manifest)}
    rows, classes = _index(manifest), set(manifest["label"].dropna())
    added: dict[str, Review] = {}
    known = 0
    for review in sorted(new, key=lambda review: review.id):
        _check(review, f"imported {review.id}", rows, classes, manifest)
        there = old.get(review.id) or added.get(review.id)
        if there is None:
            added[review.id] = review
        elif (there.action, there.label) == (review.action, review.label):
            known += 1
        else:
            raise BadInput(
                f"{path}: {_said(there)} there, and {_said(review)} in the import; settle it and change one"
            )
    if added:
        _write(path, old.values(), added.values())
    return len(added), known


def _said(review: Review) -> str:
    label = f" to {review.label!r}" if review.label else ""
    return f"{review.id} is {review.action}{label} by {review.reviewer or 'somebody'}"


def _write(path: Path, old: Iterable[Review], new: Iterable[Review]) -> None:
    """Append; a file without the last column is written anew."""
    text = path.read_text(encoding="utf-8-sig")
    if not text.startswith(",".join(COLUMNS)):
        text = _lines([COLUMNS, *(review[1:] for review in old)])
    elif not text.endswith("\n"):
        text += "\n"
    path.write_text(text + _lines(review[1:] for review in new), encoding="utf-8", newline="")


def _lines(rows: Iterable[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def from_votes(path: Path, manifest: pd.DataFrame) -> tuple[list[Review], list[str]]:
    """Read an export of Label Studio, and let the majority of a sample's reviewers decide.

    Returns:
        Decisions, and the ids on which reviewers are divided: they stay open.

    Raises:
        BadInput: if the export is about other samples.
    """
    verdicts, torn = label_studio.settle(label_studio.read_votes(path))
    rows = _index(manifest)
    unknown = [verdict.sample for verdict in verdicts if verdict.sample not in rows]
    if unknown:
        raise BadInput(
            f"{path}: {len(unknown)} ids are of no sample of this dataset: {_some(unknown)}; "
            "was the queue of another modality exported, or the data changed since?"
        )
    decided = []
    for verdict in verdicts:
        given = manifest.at[rows[verdict.sample], "label"]
        action = "drop" if verdict.choice is None else "keep" if verdict.choice == given else "relabel"
        label = verdict.choice if action == "relabel" and verdict.choice else ""
        stratum = review_queue.stratum_of(verdict.sample, verdict.ticket)
        decided.append(Review(0, verdict.sample, action, label, verdict.reviewers, verdict.note, stratum))
    return decided, torn


def from_queue(path: Path) -> list[Review]:
    """Read the decided lines of a `queue.csv` that was filled in a spreadsheet.

    Raises:
        BadInput: if columns of the queue are missing.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = csv.DictReader(file)
        missing = {*_OLD, "ticket"} - set(lines.fieldnames or ())
        if missing:
            raise BadInput(
                f"{path}: columns {sorted(missing)} are missing; fill in the queue as it was written"
            )
        found = []
        for values in lines:
            if values["label"] and not values["action"]:
                raise BadInput(f"{path}, line {lines.line_num}: a label without an action, one of {ACTIONS}")
            if values["action"]:
                stratum = review_queue.stratum_of(values["id"], values["ticket"])
                kept = {name: values[name] or "" for name in _OLD}
                label = kept["label"] if kept["action"] == "relabel" else ""
                found.append(Review(lines.line_num, **(kept | {"label": label, "stratum": stratum})))
    return found


def export(ingest: Path, queue: Path, folder: Path) -> None:
    """Write what Label Studio needs to ask for the queue: tasks, media and its labelling interface."""
    tasks = json.loads(queue.read_text(encoding="utf-8"))
    (folder / "media").mkdir(parents=True, exist_ok=True)
    files = label_studio.media(tasks)
    for id_, payload in store.payloads(ingest, files):
        (folder / "media" / files[id_]).write_bytes(payload)
    interface = label_studio.config(store.read_classes(ingest), tasks)
    (folder / "config.xml").write_text(interface, encoding="utf-8")
    shutil.copyfile(queue, folder / "tasks.json")


def _some(ids: Sequence[str]) -> str:
    return ", ".join(ids[:_NAMED]) + (" …" if len(ids) > _NAMED else "")


def main(argv: Sequence[str] | None = None) -> None:
    """Move reviews between the pipeline and the people who make them."""
    parser = argparse.ArgumentParser(
        prog="python -m winnow.data.deciding.reviews",
        description=__doc__,
        epilog="The way around: dvc repro writes out/<modality>/curate@2/queue.csv and queue.json. Fill in "
        "action, label, reviewer and note of the first, or export the second and work in Label Studio. "
        "Import what comes back, commit reviews/<modality>.csv, and dvc repro asks for the next.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="export|import")
    out = commands.add_parser("export", help="write a folder to be opened in Label Studio")
    out.add_argument("modality", help="a name in params.yaml")
    out.add_argument("queue", type=Path, help="a round's queue.json")
    out.add_argument(
        "--media", type=Path, required=True, metavar="FOLDER", help="receives tasks.json, config.xml, media/"
    )
    back = commands.add_parser("import", help="add decisions to reviews/<modality>.csv")
    back.add_argument("modality", help="a name in params.yaml")
    back.add_argument(
        "export", type=Path, help="Label Studio's export (JSON or JSON-MIN), or a filled queue.csv"
    )
    back.add_argument("--reviews", type=Path, metavar="CSV", help="default: reviews/<modality>.csv")
    for command in (out, back):
        command.add_argument("--ingest", type=Path, metavar="FOLDER", help="default: out/<modality>/ingest")
    words = parser.parse_args(argv)
    ingest = words.ingest or Path("out", words.modality, "ingest")
    try:
        if words.command == "export":
            export(_there(ingest), _there(words.queue), words.media)
            print(_ADVICE.format(folder=words.media.resolve()))
        else:
            print(_import(words.export, words.reviews or Path("reviews", f"{words.modality}.csv"), ingest))
    except BadInput as error:
        sys.exit(f"reviews {words.command}: {error}")


_ADVICE = """\
Start Label Studio where it may read the media:
  export LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT={folder}
  label-studio start
Make a project with config.xml as its labelling interface, add {folder}/media as local storage without
syncing it, and import tasks.json. Several people may answer a task. Then export as JSON."""


def _import(exported: Path, path: Path, ingest: Path) -> str:
    manifest = store.read_table(_there(ingest) / "manifest.parquet")
    torn: list[str] = []
    if _there(exported).suffix == ".csv":
        decided = from_queue(exported)
    else:
        decided, torn = from_votes(exported, manifest)
    added, known = append(_there(path), decided, manifest)
    said = f"{path}: {added} decisions added, {known} were there already"
    return said + (f"; reviewers are divided on {len(torn)}, which stay open: {_some(torn)}" if torn else "")


def _there(path: Path) -> Path:
    if not path.exists():
        raise BadInput(f"{path} does not exist")
    return path


if __name__ == "__main__":
    main()
