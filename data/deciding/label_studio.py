"""The review queue as Label Studio's tasks, and its exported annotations as votes.

Label Studio is not needed to import this; its task and export formats are JSON.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

from winnow.data.stage import BadInput

LABEL, UNUSABLE, NOTE = "label", "unusable", "note"
LEAVE_OUT = "leave this sample out"
_FILES = "/data/local-files/?d=media/"  # Label Studio serves what lies in `media/` below its document root
_TAGS = {"image": "Image", "audio": "Audio", "text": "Text"}
_MOST_BUTTONS = 12  # classes; more are a drop-down list
_NOT_IN_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class Hint(NamedTuple):
    """What a model suggests.

    Attributes:
        label: the class.
        confidence: its probability [0–1].
    """

    label: str
    confidence: float


def task(id_: str, ticket: str, media_type: str, text: str | None, hint: Hint | None) -> dict[str, Any]:
    """Make the task about one sample.

    The sample's id does not stand under `id`: Label Studio's short export puts its own number there.

    Args:
        id_: of the sample.
        ticket: names its stratum to `import`, and to no reviewer.
        media_type: of the payload, `image/png` say.
        text: the payload where it is text.
        hint: a label to begin with; None leaves the reviewer alone with the sample.
    """
    kind, _, ending = media_type.partition("/")
    shown = text if kind == "text" else f"{_FILES}{id_}.{ending}"
    made: dict[str, Any] = {"data": {"sample": id_, "ticket": ticket, kind: shown}, "predictions": []}
    if hint:
        choice = {"from_name": LABEL, "to_name": kind, "type": "choices", "id": "hint"}
        result = [choice | {"value": {"choices": [hint.label]}}]
        score = round(hint.confidence, 6)
        made["predictions"].append({"model_version": "winnow", "score": score, "result": result})
    return made


def write_tasks(path: Path, tasks: Sequence[Mapping[str, Any]]) -> None:
    """Write tasks as the JSON list that Label Studio imports."""
    text = json.dumps(tasks, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def media(tasks: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Name the file that each sample's task asks for, by id; a text asks for none."""
    files = {}
    for one in tasks:
        for value in one["data"].values():
            if value.startswith(_FILES):
                files[one["data"]["sample"]] = Path(value.removeprefix(_FILES)).name
    return files


def config(classes: Sequence[str], tasks: Sequence[Mapping[str, Any]]) -> str:
    """Write the labelling interface: the sample, its classes, a way to leave it out, and a note.

    Raises:
        BadInput: if a class holds a character that XML cannot.
    """
    kind = next((key for key in _TAGS if tasks and key in tasks[0]["data"]), "text")
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, _TAGS[kind], name=kind, value=f"${kind}")
    layout = "select" if len(classes) > _MOST_BUTTONS else "inline"
    choices = {"toName": kind, "choice": "single", "layout": layout}
    labels = ElementTree.SubElement(view, "Choices", {"name": LABEL} | choices)
    for name in classes:
        if _NOT_IN_XML.search(name):
            raise BadInput(f"class {name!r} holds a character that Label Studio's XML cannot; rename it")
        ElementTree.SubElement(labels, "Choice", value=name)
    out = ElementTree.SubElement(view, "Choices", name=UNUSABLE, toName=kind, choice="single")
    ElementTree.SubElement(out, "Choice", value=LEAVE_OUT)
    ElementTree.SubElement(view, "TextArea", name=NOTE, toName=kind, placeholder="Note", maxSubmissions="1")
    ElementTree.indent(view)
    return ElementTree.tostring(view, encoding="unicode") + "\n"


class Vote(NamedTuple):
    """What one person says of one sample.

    Attributes:
        sample: its id.
        ticket: of the task; "" if it had none.
        by: e-mail or number of the person.
        when: of the last change; later ones of a person replace earlier ones.
        choice: the class; None leaves the sample out; "" is no decision.
        note: free text.
    """

    sample: str
    ticket: str
    by: str
    when: str
    choice: str | None
    note: str


def read_votes(path: Path) -> list[Vote]:
    """Read what Label Studio exports as JSON or as JSON-MIN; skipped tasks are no votes.

    Raises:
        BadInput: if the file is no such export, or a task was not made by winnow.
    """
    try:
        exported = json.loads(path.read_text(encoding="utf-8-sig"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise BadInput(f"{path} is not JSON ({error}); export as JSON or JSON-MIN") from error
    if not isinstance(exported, list) or not all(isinstance(item, dict) for item in exported):
        raise BadInput(f"{path} holds no list of tasks; export as JSON or JSON-MIN")
    return [
        vote for number, item in enumerate(exported, 1) for vote in _votes(item, f"{path}, task {number}")
    ]


def _votes(item: Mapping[str, Any], where: str) -> Iterator[Vote]:
    full = "annotations" in item
    data = item.get("data", {}) if full else item
    if not isinstance(data, dict) or not isinstance(data.get("sample"), str):
        raise BadInput(f"{where} names no `sample`: only tasks that winnow made can be imported")
    task_of = {"sample": data["sample"], "ticket": str(data.get("ticket", ""))}
    if not full:
        when = str(item.get("updated_at") or item.get("created_at") or "")
        yield _vote(task_of, item, item.get("annotator"), when, where)
        return
    for annotation in item["annotations"]:
        if annotation.get("was_cancelled"):
            continue
        said = {one.get("from_name"): one.get("value", {}) for one in annotation.get("result", [])}
        when = str(annotation.get("updated_at") or annotation.get("created_at") or "")
        yield _vote(task_of, said, annotation.get("completed_by"), when, where)


def _vote(task_of: dict[str, str], said: Mapping[Any, Any], by: Any, when: str, where: str) -> Vote:
    person = by.get("email") or by.get("id") if isinstance(by, dict) else by
    label, out = (_words(said.get(name), "choices", where) for name in (LABEL, UNUSABLE))
    note = " ".join(_words(said.get(NOTE), "text", where))
    if len(label) > 1:
        raise BadInput(f"{where}: {task_of['sample']} has {len(label)} labels {label}; it can have one")
    choice = None if out else "".join(label)
    return Vote(**task_of, by="" if person is None else str(person), when=when, choice=choice, note=note)


def _words(value: Any, key: str, where: str) -> list[str]:
    """Unfold what stands for a control: `"a"`, `["a"]`, `{"choices": ["a"]}`, or a list of these."""
    if value is None or value == {}:
        return []
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        return [word for one in value for word in _words(one, key, where)]
    if isinstance(value, dict) and key in value:
        return _words(value[key], key, where)
    raise BadInput(f"{where}: {value!r} is no answer to a control of winnow's labelling interface")


class Verdict(NamedTuple):
    """What the reviewers of a sample agreed on.

    Attributes:
        sample: its id.
        ticket: of the task.
        choice: the class; None leaves the sample out.
        reviewers: those who said so, in order of their names.
        note: how many said so if others did not, and what they wrote.
    """

    sample: str
    ticket: str
    choice: str | None
    reviewers: str
    note: str


def settle(votes: Iterable[Vote]) -> tuple[list[Verdict], list[str]]:
    """Let more than half of those who decided decide.

    Returns:
        Verdicts by id, and the ids on which there is no such majority: they stay open.
    """
    last: dict[tuple[str, str], Vote] = {}
    for vote in sorted(votes, key=lambda vote: vote.when):
        last[vote.sample, vote.by] = vote
    cast: dict[str, list[Vote]] = {}
    for (sample, _), vote in sorted(last.items()):
        if vote.choice != "":
            cast.setdefault(sample, []).append(vote)
    verdicts, torn = [], []
    for sample, heard in cast.items():
        choice, number = Counter(vote.choice for vote in heard).most_common(1)[0]
        if 2 * number <= len(heard):
            torn.append(sample)
            continue
        agreed = [vote for vote in heard if vote.choice == choice]
        said = [f"{number} of {len(heard)} agree"] if number < len(heard) else []
        said += dict.fromkeys(vote.note for vote in agreed if vote.note)
        reviewers = " + ".join(vote.by for vote in agreed if vote.by)
        verdicts.append(Verdict(sample, agreed[0].ticket, choice, reviewers, "; ".join(said)))
    return verdicts, torn
