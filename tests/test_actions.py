import numpy as np
import pandas as pd
import pytest

from winnow.data.deciding import actions


def table(number: int = 30) -> tuple[pd.DataFrame, pd.DataFrame]:
    """20 samples to learn from and 10 for testing; of the first, 3 dropped, 2 relabelled, 1 given a label."""
    manifest = pd.DataFrame({"id": [f"{i:x}" for i in range(number)]})
    manifest["label"] = pd.Series(["ant" if i % 2 else "bee" for i in range(number)], dtype=object)
    manifest.loc[7, "label"] = None
    manifest["split"] = ["train"] * 20 + ["test"] * 10
    manifest["group"] = pd.Series([f"g{i // 12}" for i in range(number)], dtype=object)
    decisions = pd.DataFrame({"id": manifest["id"], "action": "keep", "label": manifest["label"]})
    decisions["reason"], decisions["decided_by"] = "", "none"
    decisions.loc[[0, 1, 2], ["action", "reason", "decided_by"]] = ["drop", "outlier", "policy"]
    decisions.loc[[4, 6], ["action", "label", "decided_by"]] = ["relabel", "ant", "human"]
    decisions.loc[7, ["action", "label", "decided_by"]] = ["relabel", "ant", "human"]
    return manifest, decisions


def test_retention_is_counted_on_what_may_be_learned_from() -> None:
    manifest, decisions = table()
    found = actions.retention(decisions, manifest)
    ant, bee = found["classes"]
    assert (ant["name"], ant["n"], ant["dropped"], ant["relabelled"], ant["arrived"]) == ("ant", 9, 1, 0, 3)
    assert (bee["name"], bee["n"], bee["dropped"], bee["relabelled"], bee["arrived"]) == ("bee", 10, 2, 2, 0)
    assert bee["retention"] == 0.8 and bee["same_label"] == 0.6
    assert bee["low"] < 0.8 < bee["high"]
    assert found["retention_min_class"] == 0.8
    assert [row["name"] for row in found["groups"]] == ["g0", "g1"]
    assert found["retention_min_group"] == 0.75  # of the 12; the other has 8, of which all are left


def test_of_many_groups_those_that_surely_lost_most_are_shown() -> None:
    number = 2000
    manifest = pd.DataFrame({"id": [f"{i:x}" for i in range(number)], "label": "ant", "split": "train"})
    manifest["group"] = [f"g{i // 10:03}" for i in range(number)]
    decisions = pd.DataFrame({"id": manifest["id"], "action": "keep", "label": "ant"})
    decisions["action"] = np.where(manifest["group"].isin(["g070", "g150"]), "drop", "keep")
    found = actions.retention(decisions, manifest)
    assert found["groups_in_all"] == 200 and len(found["groups"]) == 50
    assert [row["name"] for row in found["groups"][:2]] == ["g070", "g150"]
    assert found["retention_min_group"] == 0.0


def test_without_groups_and_labels_nothing_is_said_of_them() -> None:
    manifest, decisions = table()
    manifest["group"] = manifest["label"] = pd.Series([None] * len(manifest), dtype=object)
    found = actions.retention(decisions, manifest)
    assert found["classes"] == found["groups"] == []
    assert found["retention_min_class"] is None and found["retention_min_group"] is None


def test_what_policy_did_is_counted_by_reason_and_humans_stay_private() -> None:
    _, decisions = table()
    decisions.loc[4, "reason"] = "Jo: looks like an ant"
    found = actions.counts(decisions)
    assert {"action": "drop", "decided_by": "policy", "reason": "outlier", "n": 3} in found
    assert {"action": "relabel", "decided_by": "human", "reason": "", "n": 3} in found
    assert sum(row["n"] for row in found) == pytest.approx(len(decisions))
