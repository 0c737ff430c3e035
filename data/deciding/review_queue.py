"""Which samples a person should look at next, and what the looked-at say of those nobody flagged."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from winnow.data.deciding import policy
from winnow.data.deciding.policy import Suggestion
from winnow.data.intervals import wilson

SUSPECT, BLIND = "suspect", "blind"
STRATA = (SUSPECT, BLIND)
# Where policy dropped a suspect, a person's label still gains something: in paired runs on digits with 10 and
# 20 % of wrong labels it was a fifth to a third of what the drop had gained.
_REGAINED = 0.25


@dataclass(frozen=True, kw_only=True)
class Queue:
    """What is asked of reviewers in one round.

    Attributes:
        suspects: samples to ask about because something speaks against their label.
        blind: samples that nothing speaks against, to be reviewed in all; those reviewed in earlier
            rounds count. From them the errors that were missed are estimated.
        max_class_share: of the suspects, for one class while others wait [0–1].
        hints: show the suggested label in Label Studio. It is faster, and reviewers lean to it.
    """

    suspects: int
    blind: int
    max_class_share: float
    hints: bool


class Strata(NamedTuple):
    """Samples that a review can tell something of.

    Attributes:
        suspect: some detector speaks against the label, and policy did not take the sample for
            another reason.
        unflagged: labelled, kept, and nothing speaks against it.
    """

    suspect: np.ndarray
    unflagged: np.ndarray


def strata(manifest: pd.DataFrame, scores: pd.DataFrame, decided: pd.DataFrame) -> Strata:
    """Divide train and validation by what the audit says; test samples are in no stratum.

    Args:
        manifest: `label, split`.
        scores: the audit's issues.
        decided: what policy did, before any human.
    """
    free = (manifest["split"] != "test") & manifest["label"].notna()
    flagged = scores["is_label_issue"] | policy.voices(manifest, scores).any(axis=1)
    conflict = decided["reason"].str.contains(policy.CONFLICT, regex=False)
    about_label = (decided["action"] != "drop") | (decided["reason"] == policy.LABEL_ISSUE)
    return Strata(
        suspect=(free & ((flagged & about_label) | conflict)).to_numpy(bool),
        unflagged=(free & ~flagged & ~conflict & (decided["action"] == "keep")).to_numpy(bool),
    )


def value(scores: pd.DataFrame, decided: pd.DataFrame, suggested: Suggestion) -> np.ndarray:
    """Give what a review is worth: the probability that it rights a label in use [0–1].

    A kept label is wrong as the audit says, a changed one if the suggestion is. A dropped sample
    misleads nobody; what can be had is the sample itself.
    """
    action = decided["action"]
    wrong = (1 - scores["label_quality"]).fillna(0.0).to_numpy(float)
    return np.select([action == "keep", action == "relabel"], [wrong, 1 - suggested.confidence], _REGAINED)


def draw(
    manifest: pd.DataFrame,
    sets: pd.Series,
    worth: np.ndarray,
    waiting: Strata,
    answered: np.ndarray,
    queue: Queue,
    seed: int,
) -> pd.DataFrame:
    """Draw the queue: suspects by worth, a sample of the unflagged hidden among them.

    The unflagged are drawn at random and in proportion to the classes. They stand at random places,
    so that any beginning of the queue holds its share of them, and no place tells what a row is.

    Args:
        manifest: `id, label`.
        sets: exact sets; one of a set is asked about.
        worth: of a review of each sample.
        waiting: the strata.
        answered: reviewed already.
        queue: how many of what.
        seed: of the sample and its places.

    Returns:
        `row, id, stratum`, in the order of asking; `row` is the place in the manifest.
    """
    known = sets.isin(set(sets[answered]) - {-1}).to_numpy() | answered
    random = np.random.default_rng(seed)

    def first_of_set(rows: np.ndarray) -> np.ndarray:
        own = sets.iloc[rows].to_numpy()
        return rows[(own < 0) | ~pd.Series(own).duplicated().to_numpy()]

    suspects = np.flatnonzero(waiting.suspect & ~known)
    suspects = first_of_set(suspects[np.argsort(-worth[suspects], kind="stable")])
    place = manifest["label"].iloc[suspects].groupby(manifest["label"]).cumcount().to_numpy()
    late = place >= np.ceil(queue.max_class_share * queue.suspects)
    suspects = suspects[np.argsort(late, kind="stable")][: queue.suspects]
    suspects = suspects[np.argsort(-worth[suspects], kind="stable")]

    done = int((answered & waiting.unflagged).sum())
    unflagged = first_of_set(np.flatnonzero(waiting.unflagged & ~known))
    blind = _proportional(manifest["label"], unflagged, max(0, queue.blind - done), random)

    total = len(suspects) + len(blind)
    hidden = np.zeros(total, bool)
    hidden[random.choice(total, len(blind), replace=False)] = True
    rows = np.empty(total, int)
    rows[~hidden], rows[hidden] = suspects, blind
    return pd.DataFrame(
        {"row": rows, "id": manifest["id"].to_numpy()[rows], "stratum": np.where(hidden, BLIND, SUSPECT)}
    )


def _proportional(
    labels: pd.Series, rows: np.ndarray, number: int, random: np.random.Generator
) -> np.ndarray:
    """Draw rows in proportion to their classes, in random order."""
    number = min(number, len(rows))
    if not number:
        return rows[:0]
    shuffled = random.permutation(rows)
    by_class = shuffled[np.argsort(labels.iloc[shuffled].to_numpy(str), kind="stable")]
    # Equal steps from a random start: every row has the same chance, every class its share.
    steps = (random.random() + np.arange(number)) * len(rows) / number
    return random.permutation(by_class[steps.astype(int)])


def ticket(id_: str, stratum: str) -> str:
    """Name a sample's stratum so that no reviewer reads it, and an import can."""
    return hashlib.blake2b(f"{stratum} {id_}".encode(), digest_size=6).hexdigest()


def stratum_of(id_: str, given: str) -> str:
    """Read a ticket; "" for one that is none of this sample's."""
    return next((stratum for stratum in STRATA if ticket(id_, stratum) == given), "")


def missed(unflagged: np.ndarray, blind: Mapping[int, bool]) -> dict[str, Any]:
    """Estimate the errors among the samples that nothing spoke against.

    Args:
        unflagged: which samples these are.
        blind: of the reviewed blind samples, by row, whether the person changed them. Those that
            are suspects by now say nothing of the unflagged, and are left out.

    Returns:
        Share with its 95 % interval, and as a number of samples; `skipped` if none was reviewed.
    """
    found = [changed for row, changed in blind.items() if unflagged[row]]
    total = int(unflagged.sum())
    return {"unflagged": total} | _share(found, total, "no blind sample was reviewed")


def confirmed(suspect: np.ndarray, reviewed: Mapping[int, bool]) -> dict[str, Any]:
    """Give the share of the reviewed suspects that were wrong: the most suspicious, so no estimate of all."""
    return _share([changed for row, changed in reviewed.items() if suspect[row]], None, "none was reviewed")


def _share(found: Sequence[bool], of: int | None, lacking: str) -> dict[str, Any]:
    wrong, tried = sum(found), len(found)
    low, high = wilson(wrong, tried)
    share = wrong / tried if tried else None
    result: dict[str, Any] = {
        "status": "ok" if tried else "skipped",
        "reason": "" if tried else lacking,
        "reviewed": tried,
        "wrong": wrong,
        "share": None if share is None else round(share, 6),
        "low": round(low, 6),
        "high": round(high, 6),
    }
    if of is not None:
        result["errors"] = None if share is None else round(of * share)
        # Those that were found are there, whatever the interval says.
        result["errors_low"], result["errors_high"] = max(wrong, round(of * low)), round(of * high)
    return result
