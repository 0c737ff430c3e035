"""Quantization without training, to see what training in int8 buys: static, and dynamic."""

import copy

import torch
from torch import Tensor

from winnow.compress import fakequant, integer
from winnow.compress.fakequant import Observer, Products
from winnow.ssl.model import Classifier


@torch.no_grad()
def static(model: Classifier, x: Tensor, attention: Products = "float") -> Classifier:
    """Make the int8 form of a float classifier, whose activations have the range that some samples give them.

    Args:
        model: stays as it is.
        x: the samples; all at once, so that a range holds all that was seen.
        attention: what its products are of.
    """
    calibrated = copy.deepcopy(model).eval()
    fakequant.fake_quantize(calibrated, attention=attention)
    for module in calibrated.modules():
        if isinstance(module, Observer):
            module.train()
    calibrated(x)
    return integer.to_integers(calibrated.eval())


def dynamic(model: Classifier, attention: Products = "float") -> Classifier:
    """Make the int8 form of a float classifier, whose activations have the range of each batch by itself.

    Args:
        model: stays as it is.
        attention: what its products are of.
    """
    changed = copy.deepcopy(model).eval()
    fakequant.fake_quantize(changed, attention=attention)
    fakequant.replace(changed, lambda _, module: _Momentary() if isinstance(module, Observer) else None)
    return changed.eval()


class _Momentary(Observer):
    """Fake-quantizes a batch over its own range."""

    def watch(self, x: Tensor) -> None:
        self.take(x.min().clamp(max=0), x.max().clamp(min=0))

    def forward(self, x: Tensor) -> Tensor:
        self.watch(x)
        return super().forward(x)
