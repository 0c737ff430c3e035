import logging
import math
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor

from winnow.ssl.monitor import (
    Collapsed,
    CollapseMonitor,
    Diverged,
    effective_rank,
    embedding_std,
    sample_share,
    token_std,
)

BATCH, TOKENS, DIM = 32, 10, 8


def everywhere(x: Tensor) -> Tensor:
    return torch.ones(x.shape[:2], dtype=torch.bool)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def monitor(**changes: Any) -> CollapseMonitor:
    settings: dict[str, Any] = {
        "every_steps": 1,
        "samples": BATCH,
        "grace": 0.0,
        "patience": 3,
        "min_target_std": 0.1,
        "min_sample_share": 0.05,
        "min_embedding_std": 0.25,
        "action": "stop",
    }
    watch = CollapseMonitor(**{**settings, **changes})
    watch.first = diagnose(draw(BATCH, TOKENS, DIM))
    return watch


def diagnose(target: Tensor, embedding: Tensor | None = None) -> dict[str, float]:
    pooled = draw(BATCH, DIM) if embedding is None else embedding
    return {
        "target_std": token_std(target, everywhere(target)),
        "sample_share": sample_share(target, everywhere(target)),
        "embedding_std": embedding_std(pooled),
        "effective_rank": effective_rank(pooled),
    }


# --- the numbers --------------------------------------------------------------------------------


def test_targets_that_are_a_function_of_the_position_have_no_sample_share() -> None:
    target = draw(1, TOKENS, DIM).expand(BATCH, -1, -1)
    assert sample_share(target, everywhere(target)) == pytest.approx(0, abs=1e-6)
    assert token_std(target, everywhere(target)) > 0.5  # what fairseq watches sees nothing


def test_constant_targets_have_neither_share_nor_deviation() -> None:
    target = draw(1, 1, DIM).expand(BATCH, TOKENS, -1)
    assert sample_share(target, everywhere(target)) < 0.05  # rounding errors over almost nothing
    assert token_std(target, everywhere(target)) == pytest.approx(0, abs=1e-6)


def test_targets_that_differ_by_sample_alone_have_all_of_it() -> None:
    target = draw(BATCH, 1, DIM).expand(-1, TOKENS, -1)
    assert sample_share(target, everywhere(target)) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_sample_share_measures_the_planted_share_of_variance(share: float) -> None:
    position, sample = draw(1, 100, 64), draw(400, 1, 64, seed=1)
    target = math.sqrt(1 - share) * position + math.sqrt(share) * sample
    assert sample_share(target, everywhere(target)) == pytest.approx(share, abs=0.05)


def test_sample_share_and_deviation_agree_with_loops_over_valid_tokens() -> None:
    target = draw(6, 5, 3)
    valid = torch.arange(5) < torch.tensor([5, 4, 3, 5, 2, 1])[:, None]
    within, total, deviation = [], [], []
    for channel in range(3):
        values = [target[i, t, channel].item() for i in range(6) for t in range(5) if valid[i, t]]
        mean = sum(values) / len(values)
        total.append(sum((v - mean) ** 2 for v in values) / len(values))
        deviation.append(math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1)))
        squares = 0.0
        for t in range(5):
            here = [target[i, t, channel].item() for i in range(6) if valid[i, t]]
            squares += sum((v - sum(here) / len(here)) ** 2 for v in here)
        within.append(squares / len(values))
    assert sample_share(target, valid) == pytest.approx(sum(within) / sum(total), rel=1e-5)
    assert token_std(target, valid) == pytest.approx(sum(deviation) / 3, rel=1e-5)


def test_padding_counts_for_nothing() -> None:
    target = draw(6, 5, 3)
    valid = torch.arange(5) < torch.tensor([5, 4, 3, 5, 2, 2])[:, None]
    other = torch.where(valid[..., None], target, 1e3)
    assert sample_share(other, valid) == pytest.approx(sample_share(target, valid))
    assert token_std(other, valid) == pytest.approx(token_std(target, valid))


def test_the_effective_rank_of_known_matrices() -> None:
    signs = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])
    assert effective_rank(signs) == pytest.approx(2.0)
    assert effective_rank(torch.cat([signs, signs], 1)) == pytest.approx(2.0)
    assert effective_rank(signs * torch.tensor([1.0, 0.0])) == pytest.approx(1.0)
    # Singular values 3 : 1, so the entropy of (0.75, 0.25).
    wanted = math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    assert effective_rank(signs * torch.tensor([3.0, 1.0]) + 5) == pytest.approx(wanted)
    assert effective_rank(torch.ones(4, 3)) == pytest.approx(1.0)  # exp(0): nothing differs


def test_embedding_std_is_the_mean_deviation_between_samples() -> None:
    assert embedding_std(torch.tensor([[0.0, 5.0], [2.0, 5.0]])) == pytest.approx(math.sqrt(2) / 2)


# --- the alarm ----------------------------------------------------------------------------------

HEALTHY = draw(BATCH, TOKENS, DIM)
CONSTANT = draw(1, 1, DIM).expand(BATCH, TOKENS, -1)
POSITION = draw(1, TOKENS, DIM).expand(BATCH, -1, -1)


@pytest.mark.parametrize(
    ("seen", "name"),
    [
        (diagnose(CONSTANT), "target_std"),
        (diagnose(POSITION), "sample_share"),
        (diagnose(HEALTHY, 0.01 * draw(BATCH, DIM)), "embedding_std"),
    ],
)
def test_stops_at_a_lasting_collapse_and_names_number_step_and_remedy(
    seen: dict[str, float], name: str
) -> None:
    watch = monitor()
    watch.judge(seen, 10)
    watch.judge(seen, 20)
    with pytest.raises(Collapsed, match=rf"step 30: .*{name} .* 3 times in a row.*Raise ema\.start"):
        watch.judge(seen, 30)


def test_random_targets_are_no_collapse() -> None:
    watch = monitor(patience=1)
    for seed in range(20):
        watch.judge(diagnose(draw(BATCH, TOKENS, DIM, seed=seed), draw(BATCH, DIM, seed=seed)), seed)
    assert not watch.alarmed


def test_a_transient_is_no_collapse() -> None:
    watch = monitor()
    for step in range(30):
        watch.judge(diagnose(HEALTHY if step % 3 == 2 else POSITION), step)
    assert not watch.alarmed


def test_warns_once_and_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    watch = monitor(action="warn")
    with caplog.at_level(logging.WARNING, "winnow.ssl.monitor"):
        for step in range(10):
            watch.judge(diagnose(POSITION), step)
    (record,) = caplog.records
    assert "step 2" in record.message and "sample_share" in record.message
    assert watch.alarmed


def test_a_resumed_monitor_counts_on() -> None:
    watch, again = monitor(), monitor()
    watch.judge(diagnose(POSITION), 1)
    watch.judge(diagnose(POSITION), 2)
    again.load_state_dict(watch.state_dict())
    assert again.first == watch.first
    with pytest.raises(Collapsed):
        again.judge(diagnose(POSITION), 3)


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_ends_the_run_with_a_remedy(loss: float) -> None:
    outputs = {"loss": torch.tensor(loss)}
    with pytest.raises(Diverged, match=rf"loss is {loss} at step 0: lower optimization\.lr"):
        monitor().on_train_batch_end(tiny.trainer(9), None, outputs, None, 0)
