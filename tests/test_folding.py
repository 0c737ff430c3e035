"""What zeros make constant is folded away: the answers stay, and so do the zeros."""

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
from winnow.compress.fakequant import fake_quantize
from winnow.compress.folding import folded
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


def test_a_trunk_of_timms_is_left_as_it_is() -> None:
    options = {"embed_dim": 48, "depth": 2, "num_heads": 2}
    shape = TimmShape(timm="vit_tiny_patch16_224", options=options, weights=None, blocks=None)
    encoder = Encoder(tiny.classifier().encoder.modality, shape)
    assert folded(encoder) is encoder
