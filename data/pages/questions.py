"""What each gate asks of a report: where its value stands, and what is said when there is none."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from winnow.data.pages import chapters, wording
from winnow.data.pages.gates import AT_LEAST, AT_MOST, Found, Gate

Report = Mapping[str, Any]


def _last(report: Report) -> Mapping[str, Any]:
    return report["rounds"][-1]


def _absent(chapter: Mapping[str, Any], otherwise: str) -> Found:
    """Say why a chapter gives no value."""
    broken = chapter["status"] == chapters.ERROR
    return Found(None, chapter["reason"] or otherwise, broken)


def _test_split(report: Report) -> Found:
    test = report["test_split"]
    told = f"of {wording.plural(test['n'], 'test sample')}: each kept, with its label, in every round"
    return Found(test["touched"], told)


def _rejects(report: Report) -> Found:
    data = report["dataset"]
    if not data["inputs"]:
        return Found(None, "there are no inputs", broken=True)
    told = f"could not be used: {wording.count(data['rejects'])} of {wording.plural(data['inputs'], 'input')}"
    return Found(data["rejects"] / data["inputs"], told)


def _leak(key: str, text: str) -> Callable[[Report], Found]:
    def look(report: Report) -> Found:
        n = _last(report)["leakage"].get(key)
        return Found(None, "was not looked for") if n is None else Found(n, text)

    return look


def _judge(report: Report) -> Found:
    """A judge that does no better than guessing the largest class finds no wrong labels."""
    last = _last(report)
    accuracy = last["accuracy"]
    if not accuracy:
        return Found(None, "no out-of-fold accuracy: labels were not judged")
    guess = last["largest_class"] or 0.0
    told = (
        f"points above guessing at least: out-of-fold accuracy {wording.percent(accuracy['value'])}, "
        f"the largest class {wording.percent(guess)}"
    )
    return Found(100 * (accuracy.get("low", accuracy["value"]) - guess), told)


def _label_noise(report: Report) -> Found:
    last = _last(report)
    if not last["labels"]["n"]:
        return Found(None, "there are no labels to judge")
    judged = last["judged_by"]
    value = judged["noise"].get("calibrated")
    if value is None:
        return _absent(judged, "was not estimated")
    return Found(value, f"of {wording.plural(last['labels']['n'], 'label')} are wrong, by estimate")


def _least(rows: Sequence[Mapping[str, Any]], name: str, none: str) -> Found:
    known = [row for row in rows if row["retention"] is not None]
    if not known:
        return Found(None, none)
    worst = min(known, key=lambda row: row["retention"])
    told = f"left of {worst[name]}: {wording.count(worst['kept'])} of {wording.count(worst['given'])}"
    return Found(worst["retention"], told)


def _classes(report: Report) -> Found:
    return _least(_last(report)["classes"], "label", "there are no labels")


def _groups(report: Report) -> Found:
    found = report["groups"]
    return _least(found["rows"], "group", f"no group has {found['fewest']} samples to train on")


def _checks(status: str, text: str) -> Callable[[Report], Found]:
    def look(report: Report) -> Found:
        checks = _last(report)["checks"]
        names = [wording.words(check["name"]) for check in checks if check["status"] == status]
        told = f"of {wording.plural(len(checks), 'check')} {text}"
        return Found(len(names), told + (f": {', '.join(names)}" if names else ""))

    return look


def _drifted(report: Report) -> Found:
    drift = report["drift"]
    ran = [one for one in drift["comparisons"] if one["tested"]]
    if not ran:
        return _absent(drift, "nothing was compared")
    worst = max(ran, key=lambda one: one["drifted"] / one["tested"])
    told = f"of features: {worst['drifted']} of {worst['tested']} between {worst['a']} and {worst['b']}"
    return Found(worst["drifted"] / worst["tested"], told)


def _domain(report: Report) -> Found:
    drift = report["drift"]
    ran = [one for one in drift["comparisons"] if wording.known(one["domain"]["low"])]
    if not ran:
        return _absent(drift, "no classifier was trained to tell them apart")
    worst = max(ran, key=lambda one: one["domain"]["low"])
    told = (
        f"is the low end of the AUC by which a classifier tells {worst['a']} from {worst['b']}; 0.5 is chance"
    )
    return Found(worst["domain"]["low"], told)


def _slices(report: Report) -> Found:
    slices = report["slices"]
    if slices["worse"] is None:
        return _absent(slices, "none was judged")
    return Found(slices["worse"], f"of {wording.plural(slices['n'], 'slice')} err more than the rest")


def _annotators(report: Report) -> Found:
    found = report["annotators"]
    known = [row for row in found["rows"] if wording.known(row["quality"])]
    if not known:
        return _absent(found, "there are no annotators")
    worst = min(known, key=lambda row: row["quality"])
    return Found(worst["quality"], f"is the quality of {worst['annotator']}, the least of {found['of']}")


def _effect(key: str, against: str) -> Callable[[Report], Found]:
    """Ask whether cleaning does harm: whether even the better end of its interval is a loss."""

    def look(report: Report) -> Found:
        gain = report["effect"][key]
        if gain is None:
            return _absent(report["effect"], f"was not measured against {against}")
        measured = wording.points(gain["value_points"])
        told = f"points at best against {against}: {gain['verdict']}, {measured} measured"
        return Found(gain["high_points"], told)

    return look


def _new_issues(report: Report) -> Found:
    diff = report["diff"]
    if diff["new"] is None:
        return _absent(diff, "nothing to compare with")
    return Found(diff["new"], "flagged now and not in the accepted report")


def _chapters(report: Report) -> Found:
    parts = {name: report[name]["status"] for name in chapters.NAMES}
    parts |= {f"round {one['round']}": one["judged_by"]["status"] for one in report["rounds"]}
    broken = [wording.words(name) for name, status in parts.items() if status == chapters.ERROR]
    told = f"of {len(parts)} could not be read"
    return Found(len(broken), told + (f": {', '.join(broken)}" if broken else ""))


GATES: Mapping[str, Gate] = {
    "test_split": Gate("Test samples touched", "splits", "count", AT_MOST, _test_split),
    "chapters": Gate("Broken parts", "provenance", "count", AT_MOST, _chapters),
    "rejects": Gate("Inputs rejected", "inputs", "share", AT_MOST, _rejects),
    "checks_failed": Gate("Checks that failed", "checks", "count", AT_MOST, _checks("error", "failed")),
    "checks_skipped": Gate("Checks skipped", "checks", "count", AT_MOST, _checks("skipped", "were skipped")),
    "judge": Gate("Judge beats guessing", "labels", "points", AT_LEAST, _judge),
    "label_noise": Gate("Label noise", "labels", "share", AT_MOST, _label_noise),
    "annotator_quality": Gate("Annotators", "labels", "share", AT_LEAST, _annotators),
    "exact_across_splits": Gate(
        "Equal across splits", "splits", "count", AT_MOST,
        _leak("exact_across_splits", "samples have an equal in another split"),
    ),
    "near_across_splits": Gate(
        "Near across splits", "splits", "count", AT_MOST,
        _leak("near_across_splits", "samples have a near duplicate in another split"),
    ),
    "groups_across_splits": Gate(
        "Groups across splits", "splits", "count", AT_MOST,
        _leak("groups_across_splits", "samples have their group in another split as well"),
    ),
    "conflicting_labels": Gate(
        "Conflicting labels", "splits", "count", AT_MOST,
        _leak("conflicting_labels", "samples have an equal with another label"),
    ),
    "drifted_features": Gate("Drifted features", "drift", "share", AT_MOST, _drifted),
    "domain_auc": Gate("Splits told apart", "drift", "ratio", AT_MOST, _domain),
    "slices": Gate("Worse slices", "slices", "count", AT_MOST, _slices),
    "class_retention": Gate("Least left of a class", "actions", "share", AT_LEAST, _classes),
    "group_retention": Gate("Least left of a group", "actions", "share", AT_LEAST, _groups),
    "effect": Gate("No harm", "effect", "points", AT_LEAST, _effect("headline", "the data as delivered")),
    "effect_over_random": Gate(
        "No worse than chance", "effect", "points", AT_LEAST,
        _effect("over_random", "dropping as many at random"),
    ),
    "new_issues": Gate("New issues", "diff", "count", AT_MOST, _new_issues),
}  # fmt: skip

# What a report is made of, in its order: key, letter of the plan, title, chapters whose state it has.
SECTIONS: Sequence[tuple[str, str, str, tuple[str, ...]]] = (
    ("effect", "I", "Did it help", ("effect",)),
    ("labels", "E", "Labels", ("cells", "annotators", "map")),
    ("checks", "B–D", "Samples", ()),
    ("splits", "F", "Splits", ()),
    ("drift", "G", "Drift", ("drift",)),
    ("slices", "H", "Slices", ("slices",)),
    ("actions", "I", "Actions", ("log", "queue")),
    ("inputs", "A", "Inputs", ()),
    ("diff", "J", "Since the last report", ("diff",)),
    ("provenance", "", "Provenance", ()),
)
