from typing import Any

import pytest
import tiny
import torch

from winnow.compress import integer, posttraining
from winnow.compress.fakequant import Products
from winnow.compress.integer import Integer


def test_static_ranges_hold_all_that_was_seen() -> None:
    model, x = tiny.classifier(), tiny.samples(200).x
    quantized = posttraining.static(model, x)
    layer = quantized.encoder.get_submodule("frontend.project")
    assert isinstance(layer, Integer)
    scale, zero = float(layer.input_scale), int(layer.input_zero_point)
    assert -zero * scale == pytest.approx(min(float(x.min()), 0), abs=scale)
    assert (255 - zero) * scale == pytest.approx(float(x.max()), abs=scale)
    assert integer.count(quantized) == (14, 14, 0, 0)


@pytest.mark.parametrize("way", [posttraining.static, posttraining.dynamic])
@pytest.mark.parametrize("attention", ["float", "int8"])
def test_is_close_to_the_float_model_and_leaves_it_alone(way: Any, attention: Products) -> None:
    model, x = tiny.classifier(), tiny.samples(200).x
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    given = (model, x) if way is posttraining.static else (model,)
    changed = way(*given, attention=attention)
    with torch.no_grad():
        assert float((changed(x) - model(x)).abs().max()) < 0.15
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_dynamic_range_is_that_of_the_batch_and_of_no_other() -> None:
    model, x = posttraining.dynamic(tiny.classifier()), tiny.samples(16).x
    with torch.no_grad():
        alone = model(x)
        model(1000 * x)
        assert torch.equal(model(x), alone)


def test_static_ranges_clip_what_lies_beyond_them() -> None:
    model, x = tiny.classifier(), tiny.samples(64).x
    with torch.no_grad():
        static, dynamic = posttraining.static(model, 0.01 * x), posttraining.dynamic(model)
        wanted = model(x)
        assert float((static(x) - wanted).abs().mean()) > 3 * float((dynamic(x) - wanted).abs().mean())
