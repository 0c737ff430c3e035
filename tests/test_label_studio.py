import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from winnow.data.deciding import label_studio
from winnow.data.deciding.label_studio import Hint, Vote
from winnow.data.stage import BadInput


def vote(by: str, choice: str | None, when: str = "2026-01-01", sample: str = "a", note: str = "") -> Vote:
    return Vote(sample=sample, ticket="t", by=by, when=when, choice=choice, note=note)


def read(tmp_path: Path, content: Any) -> list[Vote]:
    path = tmp_path / "export.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return label_studio.read_votes(path)


def test_a_task_shows_a_text_and_points_to_a_file() -> None:
    text = label_studio.task("ab12", "t", "text/plain", 'say "hi",\n<b>', None)
    assert text == {
        "data": {"sample": "ab12", "ticket": "t", "text": 'say "hi",\n<b>'},
        "predictions": [],
    }
    image = label_studio.task("ab12", "t", "image/png", None, None)
    assert image["data"]["image"] == "/data/local-files/?d=media/ab12.png"
    audio = label_studio.task("cd34", "t", "audio/flac", None, None)
    assert label_studio.media([text, image, audio]) == {"ab12": "ab12.png", "cd34": "cd34.flac"}


def test_a_hint_answers_the_control_that_the_interface_has() -> None:
    task = label_studio.task("a", "t", "image/png", None, Hint("cat & dog", 0.75))
    (prediction,) = task["predictions"]
    (result,) = prediction["result"]
    view = ElementTree.fromstring(label_studio.config(["cat & dog", "b"], [task]))
    control = next(c for c in view.iter("Choices") if c.get("name") == result["from_name"])
    assert control.get("toName") == result["to_name"] == "image" and result["type"] == "choices"
    assert result["value"]["choices"][0] in [choice.get("value") for choice in control]
    assert prediction["score"] == 0.75


@pytest.mark.parametrize(
    "kind, tag", [("image/png", "Image"), ("audio/flac", "Audio"), ("text/plain", "Text")]
)
def test_the_interface_shows_what_the_tasks_hold(kind: str, tag: str) -> None:
    task = label_studio.task("a", "t", kind, "words", None)
    view = ElementTree.fromstring(label_studio.config(["x"], [task]))
    (shown,) = view.iter(tag)
    assert shown.get("value", "").removeprefix("$") in task["data"]
    for control in view.iter():
        if "toName" in control.attrib:
            assert control.get("toName") == shown.get("name")


def test_the_interface_offers_every_class_whatever_its_name() -> None:
    classes = ['a "b"', "<c>", "d & e", "ünï", "f\ng", label_studio.LEAVE_OUT, *map(str, range(20))]
    view = ElementTree.fromstring(label_studio.config(classes, []))
    label, unusable = view.iter("Choices")
    assert [choice.get("value") for choice in label] == classes
    assert label.get("layout") == "select" and len(unusable) == 1


def test_a_class_that_xml_cannot_hold_is_named() -> None:
    with pytest.raises(BadInput, match=r"class 'a\\x00' holds a character"):
        label_studio.config(["a\0"], [])


def full(sample: str, *annotations: dict[str, Any]) -> dict[str, Any]:
    """A task as Label Studio exports it, with all that it adds."""
    return {
        "id": 7, "inner_id": 1, "project": 3, "meta": {}, "file_upload": "abc-tasks.json", "drafts": [],
        "predictions": [], "total_annotations": len(annotations), "updated_at": "2026-02-01T00:00:00Z",
        "data": {"sample": sample, "ticket": "t", "text": "words"}, "annotations": list(annotations),
    }  # fmt: skip


def annotation(
    by: Any, label: str | None, *, out: bool = False, note: str = "", **more: Any
) -> dict[str, Any]:
    def one(name: str, kind: str, value: dict[str, Any]) -> dict[str, Any]:
        ends = {"from_name": name, "to_name": "text", "type": kind, "id": "x1", "origin": "manual"}
        return ends | {"value": value}

    result = [one("label", "choices", {"choices": [label]})] if label else []
    result += [one("unusable", "choices", {"choices": [label_studio.LEAVE_OUT]})] if out else []
    result += [one("note", "textarea", {"text": [note]})] if note else []
    base = {"id": 11, "completed_by": by, "result": result, "was_cancelled": False, "ground_truth": False}
    times = {"created_at": "2026-01-01T10:00:00Z", "updated_at": "2026-01-01T10:00:00Z", "lead_time": 3.2}
    return base | times | more


def test_annotations_are_votes_and_skipped_tasks_are_none(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        [
            full(
                "a",
                annotation(5, "ant", note='odd, "quoted"\nline'),
                annotation({"id": 6, "email": "jo@x.org"}, None, out=True),
            ),
            full("b", annotation(5, "bee", was_cancelled=True)),
            full("c", annotation(5, None)),
            full("d"),
        ],
    )  # fmt: skip
    assert [(v.sample, v.by, v.choice) for v in found] == [
        ("a", "5", "ant"),
        ("a", "jo@x.org", None),
        ("c", "5", ""),
    ]
    assert found[0].note == 'odd, "quoted"\nline' and found[0].ticket == "t"


def test_the_short_export_says_the_same(tmp_path: Path) -> None:
    more = {
        "ticket": "t",
        "text": "words",
        "annotation_id": 1,
        "created_at": "2026",
        "updated_at": "2026",
        "lead_time": 1,
    }
    found = read(
        tmp_path,
        [
            {"id": 1, "sample": "a", "label": "ant", "note": "n", "annotator": 5, **more},
            {
                "id": 1,
                "sample": "a",
                "label": "ant",
                "unusable": label_studio.LEAVE_OUT,
                "annotator": "jo@x.org",
                **more,
            },
            {
                "id": 2,
                "sample": "b",
                "label": {"choices": ["bee"]},
                "note": [{"text": ["x", "y"]}],
                "annotator": 5,
                **more,
            },
        ],
    )
    assert [(v.sample, v.by, v.choice, v.note) for v in found] == [
        ("a", "5", "ant", "n"), ("a", "jo@x.org", None, ""), ("b", "5", "bee", "x y"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "content, message",
    [
        ("id,label\n1,ant\n", "is not JSON .*; export as JSON or JSON-MIN"),
        ({"a": 1}, "holds no list of tasks"),
        ([[1]], "holds no list of tasks"),
        ([{"id": 1, "data": {"text": "x"}, "annotations": []}], "task 1 names no `sample`"),
        ([full("a", annotation(1, "x")), {"id": 2, "label": "x"}], "task 2 names no `sample`"),
        ([{"sample": "a", "label": {"choices": ["x", "y"]}}], "task 1: a has 2 labels"),
        ([{"sample": "a", "label": 5}], "task 1: 5 is no answer to a control"),
    ],
)
def test_what_is_no_export_of_our_tasks_is_refused(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        read(tmp_path, content)


def test_more_than_half_decide_and_the_divided_stay_open() -> None:
    votes = [vote("jo", "ant"), vote("al", "ant", note="sure"), vote("kim", "bee")]
    votes += [vote("jo", "ant", sample="b"), vote("al", None, sample="b")]
    votes += [vote("jo", None, sample="c", note="noise"), vote("al", "", sample="c")]
    verdicts, torn = label_studio.settle(votes)
    assert [(v.sample, v.choice, v.reviewers, v.note) for v in verdicts] == [
        ("a", "ant", "al + jo", "2 of 3 agree; sure"),
        ("c", None, "jo", "noise"),
    ]
    assert torn == ["b"]


def test_of_one_persons_votes_the_last_counts() -> None:
    votes = [vote("jo", "bee", "2026-01-02"), vote("jo", "ant", "2026-01-01")]
    assert label_studio.settle(votes)[0][0].choice == "bee"
    assert label_studio.settle(votes[::-1]) == label_studio.settle(votes)
