from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from torch import Tensor, nn
from torch.nn import functional

from winnow.compress import fakequant, integer
from winnow.compress.fakequant import FakeQuantized, FakeQuantizedEmbedding, Observer
from winnow.compress.integer import Integer, IntegerEmbedding
from winnow.compress.sparsity import lock, magnitude_keep, prunable
from winnow.ssl import model as models


def observed(layer: nn.Module, x: Tensor) -> FakeQuantized:
    fake = FakeQuantized(layer)  # type: ignore[arg-type]
    fake(x)
    return fake.eval()


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_linear_is_the_integer_product_of_its_integers() -> None:
    torch.manual_seed(0)
    x = numbers(50, 24)
    layer = nn.Linear(24, 16)
    nn.init.normal_(layer.bias)
    fake = observed(layer, x)
    exact = Integer(fake)

    scale, zero_point = exact.input_scale.double(), exact.input_zero_point.long()
    u = ((x.double() / scale).round().long() + zero_point).clamp(0, 255)
    assert u.min() == 0 and u.max() == 255
    accumulated = (u - zero_point) @ exact.weight.long() + exact.bias.long()  # type: ignore[union-attr]
    assert accumulated.abs().max() < 2**31
    expected = accumulated * scale * exact.weight_scale.double()

    # A number in the middle between two steps may fall on either side: one step of the input.
    step = float(scale * layer.weight.detach().abs().max())
    for found in (exact(x), fake(x)):
        error = (found.double() - expected).abs()
        assert error.max() <= step * 1.01
        assert (error < 1e-5).double().mean() > 0.99


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(5, 3), (4, 7, 5)),
        (nn.Linear(5, 3, bias=False), (4, 5)),
        (nn.Conv1d(4, 6, 3, stride=2, padding=1, groups=2), (2, 4, 9)),
        (nn.Conv2d(1, 6, 4, stride=4), (2, 1, 8, 8)),
        (nn.Conv2d(2, 3, 3, padding="same", dilation=2), (2, 2, 8, 8)),
    ],
)
def test_the_integer_form_does_what_was_trained_and_that_is_close_to_float(
    layer: nn.Module, shape: tuple[int, ...]
) -> None:
    x = numbers(*shape) + 0.5
    fake = observed(layer, x)
    assert torch.allclose(Integer(fake)(x), fake(x), atol=1e-4)
    assert float((fake(x) - layer(x)).detach().abs().max()) < 0.05


def test_an_embedding_has_a_scale_for_each_row() -> None:
    layer = nn.Embedding(9, 16, padding_idx=0)
    with torch.no_grad():
        layer.weight *= torch.logspace(-3, 3, 9)[:, None]
    x = torch.arange(9).view(3, 3)
    fake = FakeQuantizedEmbedding(layer)
    exact = IntegerEmbedding(fake)
    assert exact.weight.dtype == torch.int8
    assert torch.equal(exact(x), fake(x))
    steps = layer.weight.abs().amax(1, keepdim=True) / 127
    assert bool(((fake(x) - layer(x)).abs() <= 0.501 * steps.view(3, 3, 1)).all())
    assert not fake(x)[0, 0].any()


def test_zero_weights_stay_zero_even_in_an_empty_row() -> None:
    layer = nn.Linear(16, 8)
    keep = magnitude_keep(layer.weight, 0.8, (1, 4), "average")
    keep[3] = False
    with torch.no_grad():
        layer.weight.mul_(keep)
        layer.bias.fill_(1e3)
    fake = observed(layer, numbers(20, 16))
    assert not fakequant.fake_quantize_rows(layer.weight)[~keep].any()
    exact = Integer(fake)
    assert not exact.weight.t()[~keep].any()
    assert int(exact.weight.min()) >= -127
    # The empty row gives its bias, as far as int32 reaches.
    assert bool(torch.isfinite(exact(numbers(4, 16))).all())


def test_a_scale_has_eight_significant_bits_and_clips_nothing() -> None:
    weight = numbers(500, 40) * torch.logspace(-6, 3, 500)[:, None]
    scale, exact = fakequant.weight_scale(weight), weight.abs().amax(1) / 127
    seen = exact > fakequant.SMALLEST_SCALE
    assert bool((scale >= exact).all()) and bool((scale[seen] <= exact[seen] * (1 + 2**-7)).all())
    assert torch.equal(scale.bfloat16().float(), scale)
    assert not (scale.view(torch.int32) & 0xFFFF).any()


def test_what_stays_float_is_rounded_to_eight_significant_bits_and_nothing_else_is() -> None:
    model = tiny.classifier()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.01 * torch.randn(parameter.shape)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    fakequant.fake_quantize(model)
    fakequant.round_rest(model)
    for name, parameter in model.named_parameters():
        rounded = before[name].bfloat16().float() if "norm" in name else before[name]
        assert torch.equal(parameter, rounded)


def test_a_bias_has_eight_significant_bits_in_training_and_in_the_file() -> None:
    layer = nn.Linear(24, 16)
    nn.init.normal_(layer.bias, std=3.0)
    x = numbers(50, 24)
    fake = observed(layer, x)
    exact = Integer(fake)
    assert exact.bias is not None
    for steps in exact.bias.tolist():
        assert len(f"{abs(steps):b}".rstrip("0")) <= 8
    assert int(exact.bias.abs().max()) > 255  # or else nothing was rounded
    told = layer.bias.detach() / exact.bias_scale
    assert bool(((exact.bias - told).abs() <= told.abs() * 2**-8 + 0.5).all())
    assert torch.allclose(
        fake(x), exact(x), atol=float(exact.input_scale * layer.weight.detach().abs().max())
    )
    layer.bias.data.fill_(1e30)
    assert int(Integer(fake).bias.max()) == fakequant.BIAS_MAX < 2**31  # type: ignore[union-attr]


def test_gradients_go_straight_through_within_the_range() -> None:
    layer = nn.Linear(6, 4)
    fake = observed(layer, numbers(32, 6))
    x = (numbers(32, 6) * 0.5).requires_grad_()
    fake(x).sum().backward()
    assert torch.allclose(x.grad, fakequant.fake_quantize_rows(layer.weight).sum(0).expand(32, 6))  # type: ignore[arg-type]
    assert bool((layer.weight.grad.abs() > 0).all())  # type: ignore[union-attr]
    assert torch.equal(layer.bias.grad, torch.full((4,), 32.0))


def test_an_observer_follows_a_moving_average_until_it_is_frozen() -> None:
    observer = Observer()
    assert not observer.seen
    assert torch.equal(observer(torch.zeros(3)), torch.zeros(3)) and observer.seen
    observer(torch.tensor([-1.0, 3.0]))
    assert (float(observer.low), float(observer.high)) == (-1, 3)
    observer(torch.tensor([-2.0, 13.0]))
    assert float(observer.low) == pytest.approx(-1.01)
    assert float(observer.high) == pytest.approx(3.1)
    observer.eval()(torch.tensor([99.0]))
    observer.train()
    fakequant.freeze(observer)
    observer(torch.tensor([-99.0, 99.0]))
    assert float(observer.high) == pytest.approx(3.1)


def test_zero_is_exact_in_any_range() -> None:
    for low, high in ((0.0, 5.0), (-3.0, -1.0), (-0.7, 2.9), (1.0, 2.0)):
        observer = Observer()
        observer(torch.tensor([low, high]))
        assert float(observer(torch.tensor([0.0]))) == 0


def test_every_layer_with_an_int8_form_is_quantized_and_keeps_its_names() -> None:
    model = tiny.classifier()
    names = set(model.state_dict())
    assert fakequant.fake_quantize(model) == 1 + 2 * 6 + 1
    assert set(fakequant.master_weights(model)) == names
    assert set(prunable(model)) == set(prunable(tiny.classifier()))


def test_what_was_never_observed_cannot_become_integers() -> None:
    model = tiny.classifier()
    fakequant.fake_quantize(model)
    with pytest.raises(ValueError, match=r"encoder\.frontend\.project was never observed"):
        integer.to_integers(model)


def test_refuses_a_network_without_anything_to_quantize() -> None:
    with pytest.raises(ValueError, match="no layer"):
        fakequant.fake_quantize(nn.Sequential(nn.LayerNorm(3)))


def test_refuses_padding_that_integers_cannot_express() -> None:
    with pytest.raises(ValueError, match="'circular'"):
        FakeQuantized(nn.Conv1d(1, 1, 3, padding=1, padding_mode="circular"))


def quantized(seed: int = 0) -> models.Classifier:
    model = tiny.classifier(seed)
    fakequant.fake_quantize(model)
    model.train()(tiny.samples(64).x)
    return model.eval()


def test_the_canonical_file_gives_back_the_same_classifier(tmp_path: Path) -> None:
    model = quantized()
    master = tiny.classifier(7)
    master.load_state_dict(fakequant.master_weights(model))
    models.save(master, tmp_path)
    integers = integer.to_integers(model)
    integer.save(integers, tmp_path / "quantized.safetensors")
    x = tiny.samples(16, seed=3).x
    assert torch.equal(models.load_classifier(tmp_path)(x), master(x))
    # The float weights behind it are not needed.
    (tmp_path / "model.safetensors").unlink()
    assert torch.equal(integer.load(tmp_path)(x), integers(x))


def test_tensors_of_another_architecture_are_refused_by_name() -> None:
    integers = integer.to_integers(quantized())
    config = {
        "modality": models.section(integers.encoder.modality),
        "shape": {**asdict(integers.encoder.shape), "biases": ["query", "key", "value"]},
        "classes": integers.classes,
    }
    tensors = integers.state_dict()
    x = tiny.samples(4).x
    assert torch.equal(integer.build(config, tensors)(x), integers(x))
    wrong = [
        ({**tensors, "head.bias": tensors["head.bias"].float()}, "head.bias is torch.float32 of"),
        ({**tensors, "head.bias": tensors["head.bias"][:1]}, "head.bias is torch.int32 of .1."),
        ({**tensors, "more": tensors["head.bias"]}, "has no more"),
        ({k: v for k, v in tensors.items() if k != "head.bias"}, "head.bias is missing"),
    ]
    for found, message in wrong:
        with pytest.raises(ValueError, match=message):
            integer.build(config, found)
    with pytest.raises(ValueError, match="Encoder has no int8 form"):
        integer.build({**config, "classes": None}, tensors)


def test_the_integers_hold_the_pattern_or_are_refused() -> None:
    model = tiny.classifier()
    with torch.no_grad():
        for weight in prunable(model).values():
            weight.mul_(magnitude_keep(weight, 0.5, (1, 4), "average"))
    keep = lock(model)
    fakequant.fake_quantize(model)
    model.train()(tiny.samples(64).x)
    integers = integer.to_integers(model)
    integer.require_zeros(integers, keep)
    name = next(iter(keep))
    integers.get_buffer(name).t()[~keep[name]] = 1
    with pytest.raises(RuntimeError, match=name):
        integer.require_zeros(integers, keep)


def test_fake_quantized_weights_are_the_nearest_of_255_steps() -> None:
    weight = numbers(8, 40)
    scale = fakequant.weight_scale(weight)[:, None]
    steps = np.arange(-127, 128) * scale.double().numpy()  # [row, step]
    nearest = np.abs(weight.numpy()[:, :, None] - steps[:, None, :]).min(2)
    error = (fakequant.fake_quantize_rows(weight) - weight).abs().numpy()
    assert np.allclose(error, nearest, atol=1e-6)
    assert functional.mse_loss(fakequant.fake_quantize_rows(weight), weight) > 0
