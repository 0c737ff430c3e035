"""What zeros make constant is folded away, and what is silent cut out: the answers stay."""

import copy
from dataclasses import replace

import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_slicing import SHAPES, perturbed
from tiny_trunk import OPTIMIZATION, SHAPE

from winnow.compress import integer
from winnow.compress.fakequant import Bits, fake_quantize
from winnow.compress.folding import GROUP, cut, folded, regrouped
from winnow.compress.sparsity import prunable
from winnow.ssl.model import Classifier
from winnow.ssl.shape import Shape
from winnow.ssl.trunk import Encoder
from winnow.ssl.vit import TimmShape


def without_rows(model: Classifier, seed: int, share: float) -> Classifier:
    """Take whole rows from some matrices and whole columns from others, and single weights from all."""
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in prunable(model).values():
            for axis in (0, 1):
                gone = torch.rand(weight.shape[axis], generator=source) < share
                weight[gone if axis == 0 else (slice(None), gone)] = 0
            weight[torch.rand(weight.shape, generator=source) < share] = 0
    return model


def numbers(encoder: Encoder) -> int:
    return sum(int(value.count_nonzero()) for value in encoder.layers.parameters())


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 999), share=st.floats(0, 0.9))
def test_the_answers_stay_and_less_is_left(shape: Shape, seed: int, share: float) -> None:
    model, x = without_rows(perturbed(shape), seed, share).eval(), tiny.samples(4).x
    before = copy.deepcopy(model.state_dict())
    other = folded(model.encoder)
    torch.testing.assert_close(other(x), model.encoder(x), rtol=1e-4, atol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert numbers(other) < numbers(model.encoder)
    for name, weight in prunable(other).items():
        assert not weight[model.encoder.get_parameter(name) == 0].any()


def test_padding_is_left_out_as_before() -> None:
    model = without_rows(tiny.classifier(0, SHAPE), 1, 0.5).eval()
    x, valid = torch.randn(3, 7, SHAPE.dim), torch.arange(7)[None] < torch.tensor([[2], [5], [7]])
    allowed = valid[:, None, None]
    for layer, other in zip(model.encoder.layers, folded(model.encoder).layers, strict=True):
        torch.testing.assert_close(other(x, allowed)[0], layer(x, allowed)[0], rtol=1e-4, atol=1e-5)


def test_keys_and_values_need_no_bias() -> None:
    encoder = folded(perturbed(SHAPE).encoder)
    for layer in encoder.layers:
        assert layer.attention.key.bias is None and layer.attention.value.bias is None
        assert layer.attention.query.bias is not None
    assert encoder.shape == replace(SHAPE, biases=("query",))
    assert folded(encoder).state_dict().keys() == encoder.state_dict().keys()


def test_a_channel_that_is_constant_or_that_nobody_reads_is_silent() -> None:
    model = perturbed(SHAPE)
    layer = model.encoder.layers[0]
    with torch.no_grad():
        layer.fc1.weight[[0, 3]] = 0
        layer.fc2.weight[:, [1, 3]] = 0
        layer.attention.value.weight[2] = 0
        layer.attention.out.weight[:, 5] = 0
        layer.attention.key.weight[7] = 0
    found = folded(model.encoder).layers[0]
    assert not found.fc1.weight[[0, 1, 3]].any() and not found.fc1.bias[[0, 1, 3]].any()
    assert not found.fc2.weight[:, [0, 1, 3]].any()
    assert not found.attention.out.weight[:, [2, 5]].any() and not found.attention.value.weight[[2, 5]].any()
    assert not found.attention.query.weight[7].any() and not found.attention.query.bias[7]


def test_training_leaves_what_is_silent_silent() -> None:
    model = without_rows(perturbed(replace(SHAPE, dropout=0.0)), 2, 0.6)
    model.encoder = folded(model.encoder)
    pruned = {name: weight == 0 for name, weight in prunable(model).items()}
    silent = {f"layers.{i}.fc1.bias": layer.fc1.bias == 0 for i, layer in enumerate(model.encoder.layers)}
    assert all(rows.any() for rows in silent.values())
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, weight_decay=OPTIMIZATION.weight_decay)
    for _ in range(5):
        optimizer.zero_grad()
        model(tiny.samples(8).x).square().mean().backward()
        optimizer.step()
        with torch.no_grad():  # as a pattern lock does, of which biases are no part
            for name, weight in prunable(model).items():
                weight[pruned[name]] = 0
    for name, rows in silent.items():
        bias = model.encoder.get_parameter(name)
        assert not bias[rows].any() and bias[~rows].all()


def test_a_feed_forward_part_without_any_weight_can_be_quantized() -> None:
    model, x = perturbed(SHAPE).eval(), tiny.samples(16).x
    with torch.no_grad():
        model.encoder.layers[1].fc1.weight.zero_()
        model.encoder.layers[1].fc2.bias.add_(3)
    wanted = model(x)
    model.encoder = folded(model.encoder)
    assert not model.encoder.layers[1].fc2.weight.any()
    fake_quantize(model)
    model.train()(x)
    found = integer.to_integers(model)
    assert bool((found(x).argmax(1) == wanted.argmax(1)).all())
    torch.testing.assert_close(found(x), wanted, rtol=0, atol=0.3)


@given(alive=st.lists(st.booleans(), min_size=1, max_size=41))
def test_what_is_left_of_a_group_stays_together(alive: list[bool]) -> None:
    left = regrouped(torch.tensor(alive)).tolist()
    assert len(set(left)) == len(left) <= len(alive)
    assert len(left) % GROUP == 0 or left == list(range(len(alive)))
    living = {channel for channel, is_alive in enumerate(alive) if is_alive}
    assert living <= set(left)
    places: dict[int, set[int]] = {}
    for place, channel in enumerate(left):
        if channel in living:
            places.setdefault(channel // GROUP, set()).add(place // GROUP)
    assert all(len(groups) == 1 for groups in places.values())


@pytest.mark.parametrize(
    ("alive", "left"),
    [
        ("1111 1111", [0, 1, 2, 3, 4, 5, 6, 7]),
        ("1110 1100", [0, 1, 2, 3, 4, 5, 6, 7]),  # no group would be saved
        ("1100 0011", [0, 1, 6, 7]),
        ("0001 1110 1111", [8, 9, 10, 11, 4, 5, 6, 3]),
        ("1000 0100 0010", [0, 5, 10, 1]),
        ("0000 0000", [0, 1, 2, 3]),
        ("1111 1111 1111 1111 1111 1110 1000 1000", [*range(23), 24, 28, 23, 25, 26]),
    ],
)
def test_groups_are_filled_up_again(alive: str, left: list[int]) -> None:
    assert regrouped(torch.tensor([mark == "1" for mark in alive.replace(" ", "")])).tolist() == left


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_the_answers_stay_where_silent_channels_are_cut_out(shape: Shape) -> None:
    model, x = without_rows(perturbed(replace(shape, mlp_ratio=4.0)), 3, 0.5).eval(), tiny.samples(4).x
    model.encoder = folded(model.encoder)
    fake = copy.deepcopy(model)
    fake_quantize(fake, Bits(layers=3, embeddings=8))  # so few that rounding silences some channels, too
    fake.train()(x)
    whole = integer.to_integers(fake.eval())
    early, late = copy.deepcopy(fake), copy.deepcopy(whole)
    cut(early.encoder)
    cut(late.encoder)
    small = integer.to_integers(early)
    assert small.encoder.shape == late.encoder.shape
    channels = [size.channels for size in small.encoder.shape.sizes]
    assert all(number % GROUP == 0 and number < 64 for number in channels)
    for name, value in small.state_dict().items():
        assert torch.equal(value, late.state_dict()[name]), name
    # Integers alone change by no bit: torch adds floats in another order when there are fewer.
    for one, other in ((small, whole), (early, fake)):
        torch.testing.assert_close(one(x), other(x), rtol=0, atol=1e-5)
    cut(model.encoder)
    assert sum(size.channels for size in model.encoder.shape.sizes) >= sum(channels)


def test_blocks_of_weights_do_not_become_more() -> None:
    def blocks(weight: torch.Tensor) -> int:
        return int(weight.unflatten(1, (-1, 4)).any(-1).sum())

    model = perturbed(replace(SHAPE, mlp_ratio=4.0))
    tiny.sparsify(model)
    model = without_rows(model, 5, 0.6)
    model.encoder = folded(model.encoder)
    before = [blocks(part.weight) for layer in model.encoder.layers for part in (layer.fc1, layer.fc2)]
    cut(model.encoder)
    after = [blocks(part.weight) for layer in model.encoder.layers for part in (layer.fc1, layer.fc2)]
    assert all(now <= then for now, then in zip(after, before, strict=True))


def test_where_nothing_is_silent_nothing_is_cut() -> None:
    model = perturbed(SHAPE)
    before = copy.deepcopy(model.state_dict())
    cut(model.encoder)
    assert model.encoder.shape == SHAPE
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_trunk_of_timms_is_left_as_it_is() -> None:
    options = {"embed_dim": 48, "depth": 2, "num_heads": 2}
    shape = TimmShape(timm="vit_tiny_patch16_224", options=options, weights=None, blocks=None)
    encoder = Encoder(tiny.classifier().encoder.modality, shape)
    assert folded(encoder) is encoder
    cut(encoder)
    assert encoder.shape == shape
