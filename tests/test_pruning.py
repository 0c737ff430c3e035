from typing import Any

import pytest
from jsonargparse import ArgumentError, ArgumentParser

from winnow.compress import pruning
from winnow.compress.patterns import NM, Blocks, Pattern
from winnow.compress.schedules import Polynomial
from winnow.data.stage import BadInput

HALF = NM(n=2, m=4)
SCHEDULE = Polynomial(begin=0.1, end=0.6, refresh=0.6, frequency=2, power=3.0, initial=0.0)


def test_a_section_names_a_pattern_by_its_keys_and_says_what_is_wrong() -> None:
    def read(**pattern: Any) -> Pattern:
        parser = ArgumentParser(exit_on_error=False)
        parser.add_argument("--pattern", type=Pattern)
        return parser.instantiate(parser.parse_object({"pattern": pattern})).pattern

    assert read(block=[1, 4], pooling="max") == Blocks(block=(1, 4), pooling="max")
    assert read(n=2, m=4) == HALF
    for wrong, told in (({"block": [1, 4]}, "pooling"), ({"n": 4, "m": 4}, "0 < n < m"), ({"m": 4}, "n")):
        with pytest.raises((ArgumentError, ValueError), match=told):
            read(**wrong)


def test_a_pattern_that_prunes_all_alike_has_no_other_scope_and_no_other_sparsity() -> None:
    with pytest.raises(BadInput, match="scope must be layer, not erk"):
        pruning.make(0.5, HALF, "erk", "magnitude", SCHEDULE, pruning.NONE)
    with pytest.raises(BadInput, match=r"2:4 is a sparsity of 0\.5"):
        pruning.make(0.8, HALF, "layer", "magnitude", SCHEDULE, pruning.NONE)
