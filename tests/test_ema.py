import pytest
import torch

from winnow.ssl.ema import Ema, follow


def test_decay_ramps_linearly_and_stays() -> None:
    ema = Ema(start=0.9, end=0.99, ramp=0.5, steps=None, shared=())
    assert ema.decay(0, 100) == 0.9
    assert ema.decay(25, 100) == pytest.approx(0.945)
    assert ema.decay(50, 100) == pytest.approx(0.99)
    assert ema.decay(51, 100) == ema.decay(100, 100) == pytest.approx(0.99)
    for step in range(49):
        rise = ema.decay(step + 1, 100) - ema.decay(step, 100)
        assert rise == pytest.approx(0.09 / 50)


def test_without_a_ramp_the_decay_is_at_its_end_from_the_first_update() -> None:
    assert Ema(start=0.9, end=0.99, ramp=0.0, steps=None, shared=()).decay(1, 100) == 0.99


def test_a_longer_run_has_a_longer_memory_the_last_in_proportion_and_the_first_by_its_root() -> None:
    ema = Ema(start=0.9, end=0.99, ramp=0.5, steps=100, shared=())
    assert [ema.decay(0, 100), ema.decay(100, 100)] == [0.9, pytest.approx(0.99)]
    assert 1 / (1 - ema.decay(0, 400)) == pytest.approx(10 * 2)
    assert 1 / (1 - ema.decay(200, 400)) == pytest.approx(100 * 4)
    assert 1 / (1 - ema.decay(0, 25)) == pytest.approx(10 / 2)
    assert 1 / (1 - ema.decay(25, 25)) == pytest.approx(100 / 4)


def test_a_memory_is_one_update_at_least_and_an_endless_one_stays() -> None:
    short = Ema(start=0.5, end=1.0, ramp=0.5, steps=1_000_000, shared=())
    assert short.decay(0, 10) == 0
    assert short.decay(10, 10) == 1


@pytest.mark.parametrize(
    ("published", "steps", "small", "start", "end"),
    [
        (Ema(start=0.9998, end=0.99999, ramp=0.25, steps=375_300, shared=()), 2000, "images", 0.997, 0.998),
        (Ema(start=0.999, end=0.99999, ramp=0.1875, steps=400_000, shared=()), 2400, "speech", 0.987, 0.998),
    ],
)
def test_published_values_lead_to_those_that_serve_small_runs(
    published: Ema, steps: int, small: str, start: float, end: float
) -> None:
    """Of data2vec 2.0's base models; on small images .997 was measured to serve, on spoken digits .99."""
    assert published.decay(0, steps) == pytest.approx(start, abs=6e-4), small
    assert published.decay(steps, steps) == pytest.approx(end, abs=6e-4), small


def test_follows_by_the_decay_and_is_equal_where_it_is_shared() -> None:
    kept, live = (torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])), (torch.zeros(2), torch.ones(2))
    follow([(kept[0], live[0], False), (kept[1], live[1], True)], 0.75)
    torch.testing.assert_close(kept[0], torch.tensor([0.75, 1.5]))
    assert torch.equal(kept[1], live[1])
