import json
import logging
import time
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from winnow.compress import choice
from winnow.compress.choice import fastest
from winnow.compress.engine.library import Unavailable
from winnow.compress.runtimes import Answer, Runtime, in_turns

X = torch.zeros(4, 2)
FACTS = {"file": "a model", "threads": 1}


class Slow:
    """A runtime that takes its time, and counts."""

    name: ClassVar[str] = "slow"

    def __init__(self, seconds: float) -> None:
        self.seconds, self.runs = seconds, 0

    def __call__(self, x: Tensor) -> Answer:
        time.sleep(self.seconds)
        self.runs += 1
        return Answer(np.zeros((len(x), 3), np.float32), np.zeros((len(x), 2), np.float32))


class Stable:
    """Makes runtimes, and knows which it made."""

    def __init__(self, **seconds: float | Exception) -> None:
        self.seconds = seconds
        self.made: dict[str, Slow] = {}
        self.openers = {name: lambda name=name: self.make(name) for name in seconds}

    def make(self, name: str) -> Runtime:
        seconds = self.seconds[name]
        if isinstance(seconds, Exception):
            raise seconds
        self.made[name] = Slow(seconds)
        return self.made[name]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WINNOW_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(choice, "SECONDS", 0.0)  # the fewest rounds
    return tmp_path / "cache"


def test_the_fastest_serves_and_says_what_each_took() -> None:
    stable = Stable(tortoise=0.03, hare=0.001)
    found = fastest(stable.openers, X, FACTS)
    assert found.runtime is stable.made["hare"]
    assert found.median_ms["tortoise"] >= 30 > found.median_ms["hare"] >= 1
    assert {one.runs for one in stable.made.values()} == {2 + choice.FEWEST}


def test_what_was_measured_is_remembered_and_only_the_fastest_is_opened(cache: Path) -> None:
    first = fastest(Stable(tortoise=0.03, hare=0.001).openers, X, FACTS)
    again = Stable(tortoise=0.0, hare=0.0)
    found = fastest(again.openers, X, FACTS)
    assert list(again.made) == ["hare"] and again.made["hare"].runs == 0
    assert found.median_ms == first.median_ms
    assert [path.suffix for path in cache.iterdir()] == [".json"]


@pytest.mark.parametrize(
    ("x", "facts"),
    [(X[:1], FACTS), (X, {**FACTS, "threads": 2}), (X, {**FACTS, "file": "another"})],
    ids=["batch", "threads", "model"],
)
def test_what_times_depend_on_is_measured_by_itself(x: Tensor, facts: dict[str, str | int]) -> None:
    fastest(Stable(tortoise=0.03, hare=0.001).openers, X, FACTS)
    other = Stable(tortoise=0.001, hare=0.03)
    assert fastest(other.openers, x, facts).runtime is other.made["tortoise"]


def test_a_runtime_that_cannot_be_had_is_told_of_and_the_others_serve(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stable = Stable(engine=Unavailable("no compiler"), onnx=0.001, torch=0.03)
    assert fastest(stable.openers, X, FACTS).runtime is stable.made["onnx"]
    told = [line.getMessage() for line in caplog.records if line.levelno >= logging.WARNING]
    assert told == ["engine is left out: no compiler"]
    # One that has come since is measured with the others.
    later = Stable(engine=0.0, onnx=0.01, torch=0.03)
    assert fastest(later.openers, X, FACTS).runtime is later.made["engine"]


def test_what_stands_alone_is_not_measured() -> None:
    stable = Stable(engine=ValueError("it has no form for this"), torch=0.0)
    found = fastest(stable.openers, X, FACTS)
    assert found.runtime is stable.made["torch"] and found.median_ms == {}
    assert stable.made["torch"].runs == 0


def test_the_fastest_that_is_gone_leaves_the_next(caplog: pytest.LogCaptureFixture) -> None:
    fastest(Stable(tortoise=0.03, hare=0.001).openers, X, FACTS)
    stable = Stable(tortoise=0.0, hare=Unavailable("it ran away"))
    assert fastest(stable.openers, X, FACTS).runtime is stable.made["tortoise"]
    assert "hare is left out: it ran away" in caplog.messages


def test_without_any_it_is_an_error() -> None:
    with pytest.raises(Unavailable, match="none of engine, onnx runs the model here"):
        fastest(Stable(engine=Unavailable("no"), onnx=ImportError("no")).openers, X, FACTS)


def test_a_damaged_record_is_told_of_and_made_anew(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = fastest(Stable(tortoise=0.03, hare=0.001).openers, X, FACTS)
    (record,) = cache.iterdir()
    whole = json.loads(record.read_text())
    for broken in ("{", '{"median_ms": [1]}', "{}"):
        record.write_text(broken)
        caplog.clear()
        found = fastest(Stable(tortoise=0.03, hare=0.001).openers, X, FACTS)
        assert found.median_ms.keys() == first.median_ms.keys()
        assert any(f"{record} cannot be read" in line for line in caplog.messages)
        assert json.loads(record.read_text()).keys() == whole.keys()


def test_a_cache_that_cannot_be_written_is_told_of(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache.write_text("a file where a folder should be")
    caplog.set_level(logging.WARNING)
    stable = Stable(tortoise=0.03, hare=0.001)
    assert fastest(stable.openers, X, FACTS).runtime is stable.made["hare"]
    assert any("not remembered" in line and "WINNOW_CACHE" in line for line in caplog.messages)


def test_contenders_take_turns_and_warm_up_first() -> None:
    stable = Stable(a=0.0, b=0.002)
    taken = in_turns({name: make() for name, make in stable.openers.items()}, X, warmup=2, rounds=3)
    assert [len(times) for times in taken.values()] == [3, 3]
    assert {one.runs for one in stable.made.values()} == {5}
    assert min(taken["b"]) >= 0.002
