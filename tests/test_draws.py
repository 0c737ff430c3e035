import pytest
import torch
from randomness import draws

from winnow.data.batches import stream
from winnow.ssl.draws import Draws


def test_a_row_draws_the_same_whatever_lies_beside_it() -> None:
    together = draws(3, each=2)
    first, second = together.uniform(4), together.normal(2, 20)
    assert first.shape == (6, 4) and second.shape == (6, 2, 20)
    for place in range(3):
        alone = Draws([stream(0, "test", place)], each=2)
        assert torch.equal(alone.uniform(4), first[2 * place : 2 * place + 2])
        assert torch.equal(alone.normal(2, 20), second[2 * place : 2 * place + 2])


def test_rows_draw_numbers_of_their_own() -> None:
    drawn = draws(20, each=3).uniform()
    assert drawn.shape == (60,)
    assert len(drawn.unique()) == 60


def test_numbers_are_uniform_and_normal() -> None:
    uniform, normal = draws(300).uniform(50), draws(300).normal(50)
    assert float(uniform.min()) >= 0 and float(uniform.max()) < 1
    assert float(uniform.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(normal.mean()) == pytest.approx(0, abs=0.03)
    assert float(normal.std()) == pytest.approx(1, abs=0.03)


def test_a_row_knows_the_generator_of_its_sample() -> None:
    one, other = (stream(0, "test", place) for place in range(2))
    assert Draws([one, other], each=2).rows == [one, one, other, other]
