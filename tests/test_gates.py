import copy
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from jsonargparse import ArgumentParser

from winnow.data.pages import gates, questions
from winnow.data.pages.gates import AT_LEAST, AT_MOST, Found, Gate, Limits
from winnow.data.stage import BadInput

SHARES = st.floats(0, 1)


def judged(value: float | None, rule: str = AT_MOST, broken: bool = False, **limits: float | None) -> str:
    gate = Gate("A gate", "labels", "share", rule, lambda report: Found(value, "said", broken))
    (found,) = gates.judge({}, {"it": Limits(**limits)}, {"it": gate})
    return found["status"]


@given(SHARES, SHARES, SHARES)
def test_a_value_passes_up_to_the_first_limit_and_only_warns_up_to_the_second(
    a: float, b: float, value: float
) -> None:
    warn, fail = sorted((a, b))
    expected = "pass" if value <= warn else "warn" if value <= fail else "fail"
    assert judged(value, warn=warn, fail=fail) == expected
    assert judged(-value, AT_LEAST, warn=-warn, fail=-fail) == expected


def test_a_limit_of_null_is_never_reached() -> None:
    assert judged(1e9, warn=None, fail=None) == "pass"
    assert judged(1e9, warn=0.0, fail=None) == "warn"
    assert judged(1e9, warn=None, fail=0.0) == "fail"


def test_what_was_not_measured_is_skipped_and_what_broke_fails_without_a_zero() -> None:
    assert judged(None, warn=0.0, fail=0.0) == "skipped"
    assert judged(None, broken=True, warn=0.0, fail=0.0) == "fail"
    assert judged(0.0, warn=0.0, fail=0.0) == "pass"


def test_a_gate_that_nobody_knows_is_an_error_that_names_those_there_are() -> None:
    with pytest.raises(BadInput, match=r"no gate 'label_noize'; there are \['annotator_quality'"):
        gates.judge({}, {"label_noize": Limits(0.0, 0.0)}, questions.GATES)


@pytest.mark.parametrize(("rule", "warn", "fail"), [(AT_MOST, 0.5, 0.1), (AT_LEAST, 0.1, 0.5)])
def test_a_gate_that_fails_before_it_warns_is_an_error(rule: str, warn: float, fail: float) -> None:
    with pytest.raises(BadInput, match=r"report\.gates\.it: warns at"):
        judged(0.0, rule, warn=warn, fail=fail)


def test_gates_without_limits_are_not_judged() -> None:
    assert gates.judge({}, {}, questions.GATES) == []


def test_the_verdict_is_the_worst_gate() -> None:
    def verdict(*statuses: str) -> str:
        return gates.verdict([{"status": status} for status in statuses])["status"]

    assert verdict("pass", "skipped") == "pass"
    assert verdict("pass", "warn") == "warn"
    assert verdict("warn", "fail", "pass") == "fail"


@pytest.mark.parametrize("modality", ["speech", "vision", "text"])
def test_the_limits_in_params_are_read_as_they_stand(modality: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parent.parent)
    given = yaml.safe_load(Path("params.yaml").read_text())[modality]["report"]["gates"]
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--gates", type=dict[str, Limits])
    read = parser.instantiate(parser.parse_object({"gates": copy.deepcopy(given)})).gates
    assert read == {name: Limits(**limits) for name, limits in given.items()}
    assert set(read) == set(questions.GATES)
    assert read["new_issues"].fail is None


def test_every_gate_points_to_a_section_of_the_report() -> None:
    sections = {key for key, *_ in questions.SECTIONS}
    assert {gate.section for gate in questions.GATES.values()} <= sections
