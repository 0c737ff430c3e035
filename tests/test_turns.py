from collections import Counter
from itertools import islice, pairwise
from typing import Any

import pytest
import torch
from conftest import KINDS, run_ingest

from winnow.data.batches import Variants
from winnow.data.datamodule import Samples
from winnow.data.modality import build
from winnow.data.streaming import Streaming
from winnow.data.turns import Origin, SampleSets, Turn, Turns, rotation

TURNS = {"vision": 2, "text": 1}
ONE = Variants(number=1, strength=1.0)


@pytest.fixture(scope="module")
def origins(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Origin]:
    root = tmp_path_factory.mktemp("turns")
    found = {}
    for kind in (kind for kind in KINDS if kind.name in TURNS):
        modality, out = build(kind.section), root / kind.name / "ingest"
        run_ingest(kind, kind.write(root / kind.name / "raw"), out)
        found[kind.name] = Origin(modality=modality, ingest=out, labels=out, variants=ONE)
    return found


def sets(origins: dict[str, Origin], streaming: Streaming | None = None, **changed: Any) -> SampleSets:
    settings: dict[str, Any] = {"turns": TURNS, "batch_size": 4, "streaming": streaming, "seed": 0}
    return SampleSets(origins, **{**settings, **changed})


def assert_same_batches(one: list[Turn], other: list[Turn]) -> None:
    assert [turn.of for turn in one] == [turn.of for turn in other]
    for a, b in zip(one, other, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a.batch, b.batch, strict=True))


@pytest.mark.parametrize("turns", [{"a": 1}, {"a": 1, "b": 1, "c": 1}, {"a": 5, "b": 2, "c": 1}], ids=str)
def test_each_has_its_turns_in_a_round_and_never_waits_long(turns: dict[str, int]) -> None:
    order = rotation(turns)
    assert Counter(order) == turns
    assert rotation(dict(reversed(turns.items()))) == order
    for name, number in turns.items():
        places = [place for place, of in enumerate(order * 2) if of == name]
        gaps = [after - before for before, after in pairwise(places)]
        assert max(gaps) <= len(order) / number + 2


@pytest.mark.parametrize("turns", [{}, {"a": 1, "b": 0}, {"a": -1}], ids=str)
def test_refuses_a_modality_without_a_turn(turns: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="each modality needs 1 at least"):
        rotation(turns)


def test_refuses_turns_of_others(origins: dict[str, Origin]) -> None:
    with pytest.raises(ValueError, match=r"turns are those of \['text'\], and there is \['text', 'vision'\]"):
        sets(origins, turns={"text": 1})


@pytest.mark.parametrize("streaming", [None, Streaming(workers=0, buffer=8)], ids=["memory", "streaming"])
@pytest.mark.parametrize("each", [1, 2])
def test_a_modality_sees_the_batches_that_it_would_see_alone(
    origins: dict[str, Origin], streaming: Streaming | None, each: int
) -> None:
    """Also where the round is not over, and over several epochs: 44 samples or so make 11 batches."""
    drawn = list(islice(Turns(sets(origins, streaming), 0, each), 40))
    for name, origin in origins.items():
        alone = Samples(origin.modality, origin.ingest, origin.labels, 4, streaming, ONE, False, 0)
        own = [turn for turn in drawn if turn.of == name]
        wanted = [Turn(name, batch) for batch in islice(alone.train_dataloader(), len(own))]
        assert_same_batches(own, wanted)


@pytest.mark.parametrize("each", [1, 2])
def test_a_resumed_run_takes_the_turns_that_were_left(origins: dict[str, Origin], each: int) -> None:
    whole = list(islice(Turns(sets(origins), 0, each), 12 * each))
    for done in (1, 2, 3, 7):
        left = list(islice(Turns(sets(origins), done, each), (12 - done) * each))
        assert_same_batches(left, whole[done * each :])


def test_validation_has_every_sample_of_every_modality_once(
    origins: dict[str, Origin],
) -> None:
    made = sets(origins)
    for loader, (name, samples) in zip(made.val_dataloader(), made.sets.items(), strict=True):
        turns = list(loader)
        assert len(turns) == len(loader)
        assert {turn.of for turn in turns} == {name}
        assert torch.equal(torch.cat([turn.batch.x for turn in turns]), samples.read("validation").x)
