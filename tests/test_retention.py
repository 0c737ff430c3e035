import pandas as pd

from winnow.data.pages import retention


def table(rows: list[tuple[str, str, str, str, bool]]) -> pd.DataFrame:
    made = pd.DataFrame(rows, columns=["given", "suggested_label", "group", "action", "is_label_issue"])
    made["split"], made["label_quality"] = "train", 0.5
    return made


def test_what_is_left_of_a_group_counts_what_was_dropped_and_not_the_test_split() -> None:
    rows = table(
        [("a", "a", "x", "drop", True), ("a", "a", "x", "keep", False), ("a", "a", "y", "keep", False)]
    )
    rows.loc[3] = ["a", "a", "x", "keep", False, "test", 0.5]
    found = retention.groups(rows, fewest=2)
    assert found["n"] == 2 and found["judged"] == 1
    assert found["rows"] == [{"group": "x", "given": 2, "kept": 1, "label_issues": 1, "retention": 0.5}]


def test_confusions_hold_every_suspicion_once() -> None:
    rows = table(
        [("a", "b", "x", "drop", True)] * 3 + [("b", "a", "x", "keep", True), ("b", "b", "x", "keep", False)]
    )
    found = retention.confusion(rows)
    assert found["names"] == ["a", "b"]
    assert found["counts"] == [[0, 3], [1, 0]]
    assert found["given"] == [3, 2] and found["left_out"] == 0


def test_of_many_classes_those_are_shown_that_are_mixed_up_most() -> None:
    rows = [(str(i), str(i + 1), "x", "keep", True) for i in range(40)] + [("7", "3", "x", "keep", True)] * 9
    found = retention.confusion(table(rows))
    assert len(found["names"]) == 24 < found["classes"] == 41
    assert found["names"].index("3") < found["names"].index("7")
    assert found["left_out"] + sum(map(sum, found["counts"])) == 49


def test_numbers_are_in_the_order_of_their_value() -> None:
    assert sorted(["10", "9", "b", "a", "-1"], key=retention.natural) == ["-1", "9", "10", "a", "b"]
