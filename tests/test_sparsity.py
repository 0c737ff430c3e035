import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from winnow.compress.allocation import layerwise
from winnow.compress.patterns import NM, UNSTRUCTURED, Blocks, Pattern
from winnow.compress.schedules import ConstantSparsity, PolynomialDecay
from winnow.compress.scores import Magnitude
from winnow.compress.sparsity import (
    Pruner,
    hold,
    keep_best,
    lock,
    magnitude_keep,
    matrices,
    measured_sparsity,
    prunable,
    prune,
    require_zeros,
    zero,
)

DECAY = PolynomialDecay(begin=2, end=9, frequency=3, power=3.0, initial=0.3, final=0.75)


class Mixture(nn.Module):
    """One of each kind of layer that can be pruned, and some that cannot."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 8)
        self.stem = nn.Conv1d(8, 16, 3, padding=1)
        self.depthwise = nn.Conv1d(16, 16, 3, padding=1, groups=16)
        self.norm = nn.LayerNorm(16)
        self.image = nn.Conv2d(1, 4, (3, 2), padding=(1, 0))
        self.gru = nn.GRU(16, 12, num_layers=2, bidirectional=True)
        self.lstm = nn.LSTM(24, 12)
        self.rnn = nn.RNN(12, 12)
        self.attention = nn.MultiheadAttention(12, 2, batch_first=True)
        self.head = nn.Linear(11 * 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.depthwise(self.stem(self.table(x).transpose(1, 2))).transpose(1, 2)
        x = self.rnn(self.lstm(self.gru(self.norm(x))[0])[0])[0]
        x = self.attention(x, x, x)[0]
        return self.head(self.image(x[:, None]).amax(2).flatten(1))


MIXED = {
    "table.weight",
    "stem.weight",
    "image.weight",
    "lstm.weight_ih_l0",
    "lstm.weight_hh_l0",
    "rnn.weight_ih_l0",
    "rnn.weight_hh_l0",
    "attention.in_proj_weight",
    "attention.out_proj.weight",
    "head.weight",
    *(
        f"gru.weight_{kind}_l{layer}{way}"
        for kind in ("ih", "hh")
        for layer in (0, 1)
        for way in ("", "_reverse")
    ),
}


def mixture(seed: int = 0) -> Mixture:
    torch.manual_seed(seed)
    return Mixture()


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, then: Callable[[int], Any] = int
) -> None:
    for step in range(1, steps + 1):
        x = torch.randint(0, 20, (4, 9), generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        functional.cross_entropy(model(x), torch.arange(4) % 3).backward()
        optimizer.step()
        then(step)


def test_prunes_the_six_matrices_of_every_layer_and_nothing_else() -> None:
    expected = {
        f"encoder.layers.{layer}.{name}.weight"
        for layer in range(2)
        for name in ("fc1", "fc2", *(f"attention.{p}" for p in ("query", "key", "value", "out")))
    }
    assert set(prunable(tiny.classifier())) == expected


def test_prunes_all_matrices_of_a_network_without_layers() -> None:
    assert set(matrices(mixture())) == MIXED
    assert set(prunable(mixture())) == MIXED


def test_what_two_layers_share_is_one_weight_and_a_norm_is_none() -> None:
    model = nn.Sequential(nn.Embedding(9, 4), nn.LayerNorm((5, 4)), nn.Linear(4, 9))
    model[2].weight = model[0].weight
    assert list(matrices(model)) == ["0.weight"]


def test_prunes_what_is_chosen() -> None:
    found = prunable(mixture(), lambda name, weight: name.startswith("gru.weight_hh"))
    assert set(found) == {name for name in MIXED if name.startswith("gru.weight_hh")}


def test_says_what_there_is_when_nothing_is_chosen() -> None:
    with pytest.raises(ValueError, match=r"no weight of Mixture.*head\.weight"):
        prunable(mixture(), lambda name, weight: False)
    with pytest.raises(ValueError, match="there are none"):
        prunable(nn.LayerNorm(3))


@pytest.mark.parametrize(
    "pattern", [UNSTRUCTURED, Blocks(block=(1, 4), pooling="max"), Blocks(block=(3, 2), pooling="average")]
)
def test_prunes_every_kind_of_layer_in_place(pattern: Pattern) -> None:
    model = mixture()
    keep = prune(model, 0.8, pattern)
    require_zeros(model, keep)
    for name, kept in keep.items():
        units = pattern.units(kept.float().movedim(1, -1).flatten(1))
        assert set(units.sum(2).unique().tolist()) <= set(range(units.shape[2] + 1))
        blocks = pattern.pool(kept.float().movedim(1, -1).flatten(1)) > 0
        assert int(blocks.sum()) == max(round(blocks.numel() * 0.2), 1), name
    assert torch.isfinite(model(torch.ones(2, 9, dtype=torch.long))).all()


def test_two_of_four_holds_in_every_row_and_names_what_it_does_not_fit() -> None:
    model = mixture()

    def fits(name: str, weight: nn.Parameter) -> bool:
        return not name.startswith("image")

    keep = prune(model, 0.5, NM(n=2, m=4), choose=fits)
    for kept in keep.values():
        groups = kept.movedim(1, -1).flatten(1).unflatten(1, (-1, 4))
        assert (groups.sum(2) == 2).all()
    with pytest.raises(ValueError, match=r"image\.weight hold 6 weights"):
        prune(model, 0.5, NM(n=2, m=4))


def test_a_default_prunes_the_weights_that_it_always_did() -> None:
    # The selection as it was when blocks of linear layers were all there was, word for word.
    def former(weight: Tensor, sparsity: float, rows: int, columns: int) -> Tensor:
        lower, right = -weight.shape[0] % rows, -weight.shape[1] % columns
        padded = functional.pad(weight.detach().abs(), (0, right, 0, lower))
        score = padded.unflatten(1, (-1, columns)).unflatten(0, (-1, rows)).mean((1, 3))
        order = score.flatten().argsort(descending=True, stable=True)
        keep = torch.zeros_like(order, dtype=torch.bool)
        keep[order[: max(round(score.numel() * (1 - sparsity)), 1)]] = True
        spread = keep.view_as(score).repeat_interleave(rows, 0).repeat_interleave(columns, 1)
        return spread[: weight.shape[0], : weight.shape[1]]

    weight = torch.randn(37, 50, generator=torch.Generator().manual_seed(0))
    for block in ((1, 1), (1, 4), (4, 4), (3, 2)):
        for sparsity in (0.0, 0.31, 0.8, 0.95):
            expected = former(weight, sparsity, *block)
            assert torch.equal(magnitude_keep(weight, sparsity, block, "average"), expected)


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda weights: torch.optim.SGD(weights, lr=0.1, momentum=0.9, weight_decay=0.1),
    "adamw": lambda weights: torch.optim.AdamW(weights, lr=0.01, weight_decay=0.1),
    "rmsprop": lambda weights: torch.optim.RMSprop(weights, lr=0.01, momentum=0.9, centered=True),
}


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_held_zeros_stay_zero_whatever_the_optimizer_remembers(kind: str) -> None:
    model = mixture()
    optimizer = OPTIMIZERS[kind](model.parameters())
    train(model, optimizer, 2)  # momentum of the weights that are pruned next
    keep = prune(model, 0.7)
    before = model.head.weight.clone()
    hold(model, keep, optimizer)
    train(model, optimizer, 3, lambda step: require_zeros(model, keep))
    assert not torch.equal(model.head.weight, before)


def test_without_a_hold_momentum_brings_zeros_back() -> None:
    model = mixture()
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    train(model, optimizer, 2)
    keep = prune(model, 0.7)
    train(model, optimizer, 1)
    with pytest.raises(RuntimeError, match="not zero"):
        require_zeros(model, keep)


def test_a_loop_of_ones_own_follows_the_schedule_to_its_exact_end() -> None:
    model, pruner, found = mixture(), Pruner(), []
    optimizer = OPTIMIZERS["adamw"](model.parameters())

    def after(step: int) -> None:
        pruner.step(model, step, DECAY, [optimizer])
        found.append(measured_sparsity(model))

    train(model, optimizer, 12, after)
    weights = matrices(model).values()
    for step, sparsity in enumerate(found, 1):
        refreshed = max([s for s in (2, 5, 8, 9) if s <= step], default=None)
        expected = 0.0 if refreshed is None else DECAY.sparsity(refreshed)
        kept = sum(w.numel() if refreshed is None else round(w.numel() * (1 - expected)) for w in weights)
        assert sparsity == pytest.approx(1 - kept / sum(w.numel() for w in weights), abs=1e-9)


def test_the_optimizer_forgets_what_is_pruned() -> None:
    model, pruner = mixture(), Pruner()
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    train(model, optimizer, 1)
    pruner.refresh(model, 0.75, [optimizer])
    for name, weight in matrices(model).items():
        for moment in ("exp_avg", "exp_avg_sq"):
            held = optimizer.state[weight][moment]
            assert held[~pruner.keep[name]].count_nonzero() == 0
            assert held[pruner.keep[name]].count_nonzero() > 0


def test_a_mask_of_one_step_stays_and_a_refreshed_one_follows_the_weights() -> None:
    def masks(schedule: ConstantSparsity) -> list[Tensor]:
        model, pruner, found = mixture(), Pruner(choose=lambda name, w: name == "head.weight"), []
        optimizer = torch.optim.SGD(model.parameters(), lr=2.0)

        def after(step: int) -> None:
            pruner.step(model, step, schedule)
            found.append(pruner.keep["head.weight"])

        train(model, optimizer, 8, after)
        return found

    frozen = masks(ConstantSparsity(begin=1, end=1, frequency=1, final=0.5))
    assert all(torch.equal(mask, frozen[0]) for mask in frozen)
    refreshed = masks(ConstantSparsity(begin=1, end=None, frequency=1, final=0.5))
    assert any(not torch.equal(mask, refreshed[0]) for mask in refreshed)


def test_masks_survive_saving_loading_and_copying(tmp_path: Path) -> None:
    model = mixture()
    keep = prune(model, 0.9)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    loaded = mixture(1)
    loaded.load_state_dict(load_file(tmp_path / "model.safetensors"))
    for sparse in (loaded, copy.deepcopy(model)):
        require_zeros(sparse, keep)
        found = lock(sparse)
        assert all(torch.equal(found[name], keep[name]) for name in keep)


def test_a_moving_average_of_sparse_weights_is_set_to_zero_by_their_masks() -> None:
    model = mixture()
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    train(model, optimizer, 1, lambda step: average.update_parameters(model))
    keep = prune(model, 0.7)
    hold(model, keep, optimizer)
    train(model, optimizer, 2, lambda step: average.update_parameters(model))
    with pytest.raises(RuntimeError, match="not zero"):  # it remembers what was there
        require_zeros(average.module, keep)
    zero(average.module, keep)
    require_zeros(average.module, keep)


def test_a_pruner_goes_on_where_its_state_was_saved(tmp_path: Path) -> None:
    def run(saved: int | None) -> Mixture:
        model, pruner = mixture(), Pruner()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

        def after(step: int) -> None:
            nonlocal pruner
            pruner.step(model, step, DECAY)
            if step == saved:
                state, pruner = pruner.state_dict(), Pruner()
                pruner.load_state_dict(state)

        train(model, optimizer, 12, after)
        return model

    whole, resumed = run(None), run(6)
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, resumed.state_dict()[name]), name


def test_a_lock_finds_the_pattern_and_a_deep_copy_keeps_it() -> None:
    model = tiny.classifier()
    keep = tiny.sparsify(model)
    assert all(bool((lock(model)[name] == keep[name]).all()) for name in keep)
    require_zeros(copy.deepcopy(model), keep)
    assert measured_sparsity(model) == 0.75


def test_a_weight_that_came_back_is_not_saved() -> None:
    model = tiny.classifier()
    keep = tiny.sparsify(model)
    name, weight = next(iter(prunable(model).items()))
    with torch.no_grad():
        weight[~keep[name]] = 1e-30
    with pytest.raises(RuntimeError, match=name):
        require_zeros(model, keep)


def test_one_weight_is_kept_of_a_matrix_however_small() -> None:
    keep = keep_best({"w": torch.ones(1, 3)}, 0.99, UNSTRUCTURED, Magnitude(), layerwise)
    assert keep["w"].tolist() == [[True, False, False]]
