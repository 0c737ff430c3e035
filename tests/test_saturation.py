import pytest
import tiny
import torch
from test_quantize import numbers, observed
from torch import nn

from winnow.compress import fakequant, integer, saturation
from winnow.compress.fakequant import Bits
from winnow.compress.integer import Integer


def layer(weight: torch.Tensor, x: torch.Tensor, bits: int = 8) -> nn.Sequential:
    plain = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    with torch.no_grad():
        plain.weight.copy_(weight)
    fake = fakequant.FakeQuantized(plain, bits)
    fake(x)
    return nn.Sequential(Integer(fake.eval()))


def naive(model: nn.Sequential, x: torch.Tensor) -> tuple[int, int]:
    """Add pair by pair, as a kernel does."""
    one = model[0]
    u = ((x / one.input_scale).round() + one.input_zero_point).clamp(0, 255).int().tolist()
    weight = one.weight.int().t().tolist()
    wrong = 0
    for inputs in u:
        for row in weight:
            sums = [
                sum(a * b for a, b in zip(inputs[k : k + 2], row[k : k + 2], strict=True))
                for k in range(0, len(row), 2)
            ]
            wrong += any(not -(2**15) <= total < 2**15 for total in sums)
    return wrong, len(u) * len(weight)


@pytest.mark.parametrize("columns", [24, 25])
def test_counts_what_a_kernel_would_get_wrong(columns: int) -> None:
    x = numbers(40, columns)
    model = layer(numbers(16, columns, seed=1), x)
    found = saturation.measure(model, x)
    wrong, outputs = naive(model, x)
    assert 0 < wrong < outputs
    assert found.measured == pytest.approx(wrong / outputs)
    assert found.measured <= found.possible <= 1


def test_weights_of_seven_bits_cannot_saturate() -> None:
    x = 9 * torch.ones(8, 24)
    weight = torch.ones(16, 24)
    assert saturation.measure(layer(weight, x), x) == (1, 1)
    assert saturation.measure(layer(weight, x, bits=7), x) == (0, 0)


def test_pruned_neighbours_make_it_rare() -> None:
    x, weight = numbers(40, 64), numbers(32, 64, seed=1)
    dense = saturation.measure(layer(weight, x), x)
    weight[:, 1::2] = 0
    assert saturation.measure(layer(weight, x), x) == (0, 0) < dense


def test_looks_at_every_linear_of_a_classifier() -> None:
    found = []
    for bits in (7, 8):
        model = tiny.classifier()
        fakequant.fake_quantize(model, Bits(layers=bits, embeddings=8))
        x = tiny.samples(64).x
        model.train()(x)
        found.append(saturation.measure(integer.to_integers(model.eval()), x))
    assert found[0] == (0, 0)
    assert 0 < found[1].measured < found[1].possible < 1


def test_bits_of_weights_are_what_is_asked_for_where_it_is_asked() -> None:
    model = tiny.classifier()
    fakequant.fake_quantize(model, Bits(layers=4, embeddings=8))
    model.train()(tiny.samples(64).x)
    integers = integer.to_integers(model.eval())
    for name, module in integers.named_modules():
        if isinstance(module, Integer):
            assert int(module.weight.abs().max()) == (7 if ".layers." in name else 63)
    wide = observed(nn.Linear(8, 4), numbers(9, 8))
    assert int(Integer(wide).weight.abs().max()) == 127
    for wrong in (1, 9):
        with pytest.raises(ValueError, match="bits must be 2 to 8"):
            Bits(layers=wrong, embeddings=8)
