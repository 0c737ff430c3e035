from typing import Any

import pytest
from tiny_trunk import SHAPE

from winnow.ssl.shape import LayerSize

SLICES = [LayerSize(heads=(1,), channels=5), LayerSize(heads=(0, 1), channels=32)]


def test_a_whole_trunk_has_all_heads_and_channels_in_each_layer() -> None:
    assert SHAPE.sizes == (LayerSize(heads=(0, 1), channels=32),) * 2


def test_a_sliced_trunk_has_what_is_left_and_keeps_it_with_its_layer() -> None:
    shape = SHAPE.cut(SLICES)
    assert shape.sizes == tuple(SLICES)
    assert shape.keeping([1]).sizes == (SLICES[1],)
    assert shape.keeping([1]).layers == 1
    assert shape.cut(SLICES[::-1]).sizes == tuple(SLICES[::-1])


@pytest.mark.parametrize(
    ("slices", "message"),
    [
        ([((0,), 4)], r"has 1 entries, shape\.layers is 2"),
        ([((0,), 4), ((), 4)], r"heads \[\] in entry 1 of shape.slices must ascend within 0 to 1"),
        ([((1, 0), 4), ((0,), 4)], r"heads \[1, 0\] in entry 0"),
        ([((0, 2), 4), ((0,), 4)], r"heads \[0, 2\] in entry 0"),
        ([((0,), 33), ((0,), 4)], "channels 33 in entry 0 of shape.slices must be 1 to 32"),
        ([((0,), 4), ((0,), 0)], "channels 0 in entry 1"),
    ],
)
def test_slices_that_cannot_be_are_refused(slices: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SHAPE.cut([LayerSize(heads=heads, channels=channels) for heads, channels in slices])
