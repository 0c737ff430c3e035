import pytest

from winnow.compress.literature import POINTS


def test_a_ratio_that_counts_kept_weights_is_that_of_its_formula() -> None:
    counted = [point for point in POINTS if point.counts.startswith("kept weights")]
    assert counted
    for point in counted:
        assert point.ratio == pytest.approx(32 / (point.bits * (1 - point.sparsity)))


def test_every_point_says_where_it_stands_and_what_it_is_against() -> None:
    for point in POINTS:
        assert point.source and point.against and point.counts
        assert point.loss < 0 < point.sparsity < 1 < point.ratio
