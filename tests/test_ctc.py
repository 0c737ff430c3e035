import math
from collections import defaultdict
from itertools import groupby, product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from winnow.ssl import ctc


def some(steps: int, indices: int, seed: int = 0, sharpness: float = 1.5) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (sharpness * torch.randn(steps, indices, generator=generator)).log_softmax(1)


def all_rows(log_probs: Tensor) -> dict[tuple[int, ...], float]:
    """Probability of every row of characters, over all paths one by one."""
    probs = log_probs.double().exp()
    found: dict[tuple[int, ...], float] = defaultdict(float)
    for path in product(range(probs.shape[1]), repeat=len(probs)):
        row = tuple(index for index, _ in groupby(path) if index != ctc.BLANK)
        found[row] += math.prod(float(probs[step, index]) for step, index in enumerate(path))
    return found


def test_the_cost_is_the_negative_logarithm_of_the_sum_over_all_paths() -> None:
    log_probs = torch.stack([some(5, 3, seed) for seed in range(4)])
    spelled, steps = [[1, 1], [2], [1, 2, 1], [2, 1]], [5, 5, 4, 3]
    cost = ctc.costs(log_probs, torch.tensor(steps), spelled)
    for row, one, number, seen in zip(log_probs, spelled, steps, cost.tolist(), strict=True):
        assert seen == pytest.approx(-math.log(all_rows(row[:number])[tuple(one)]), rel=1e-5)


@given(st.lists(st.integers(1, 2), min_size=1, max_size=5), st.integers(1, 9))
@settings(max_examples=50)
def test_a_row_has_a_cost_where_there_are_as_many_steps_as_it_needs(spelled: list[int], steps: int) -> None:
    cost = ctc.costs(some(steps, 3)[None], torch.tensor([steps]), [spelled])
    assert bool(cost.isfinite()) == (ctc.steps_needed(spelled) <= steps)


@pytest.mark.parametrize("seed", range(8))
def test_a_beam_that_holds_every_row_finds_the_likeliest_of_all(seed: int) -> None:
    log_probs = some(6, 3, seed)
    rows = all_rows(log_probs)
    assert sum(rows.values()) == pytest.approx(1)
    assert tuple(ctc.beam_search(log_probs, 1000)) == max(rows, key=lambda row: rows[row])


def test_a_wider_beam_finds_what_is_as_likely_at_least_most_of_the_time() -> None:
    """A beam may lose the best early, but not often; greedily it is lost where paths add up."""
    found = {width: 0.0 for width in (0, 1, 4, 1000)}
    for seed in range(30):
        log_probs = some(6, 3, seed, sharpness=0.7)
        rows = all_rows(log_probs)
        for width in found:
            row = ctc.beam_search(log_probs, width) if width else ctc.greedy(log_probs)
            found[width] += rows[tuple(row)] / max(rows.values()) / 30
    assert found[0] < found[4] <= found[1000]
    assert found[1000] == pytest.approx(1)
    assert found[4] > 0.95


def test_paths_add_up_where_the_likeliest_path_alone_says_nothing() -> None:
    log_probs = torch.tensor([[0.6, 0.4], [0.6, 0.4]]).log()  # nothing: 0.36; the character: 0.64
    assert ctc.greedy(log_probs) == []
    assert ctc.beam_search(log_probs, 2) == [1]


def test_repeats_are_told_once_and_blanks_part_them() -> None:
    path = torch.tensor([0, 1, 1, 0, 1, 2, 2, 0])
    log_probs = (20 * torch.nn.functional.one_hot(path, 3)).float().log_softmax(1)
    assert ctc.greedy(log_probs) == [1, 1, 2]
    assert ctc.beam_search(log_probs, 3) == [1, 1, 2]


def test_thousands_of_steps_are_no_too_small_number() -> None:
    log_probs = some(3000, 5, sharpness=6.0)
    assert len(ctc.beam_search(log_probs, 4)) > 1000


def test_of_no_step_nothing_is_said() -> None:
    assert ctc.greedy(some(0, 3)) == ctc.beam_search(some(0, 3), 2) == []
