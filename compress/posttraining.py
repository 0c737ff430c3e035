"""Quantization without training, to see what training in int8 buys: static, and dynamic."""

import copy

import torch
from torch import Tensor

from winnow.compress import fakequant, integer
from winnow.compress.fakequant import FakeQuantized, Observer
from winnow.ssl.model import Classifier


@torch.no_grad()
def static(model: Classifier, x: Tensor) -> Classifier:
    """Make the int8 form of a float classifier, whose activations have the range that some samples give them.

    Args:
        model: stays as it is.
        x: the samples; all at once, so that a range holds all that was seen.
    """
    calibrated = copy.deepcopy(model).eval()
    fakequant.fake_quantize(calibrated)
    for observer in _observers(calibrated):
        observer.train()
    calibrated(x)
    return integer.to_integers(calibrated.eval())


def dynamic(model: Classifier) -> Classifier:
    """Make the int8 form of a float classifier, whose activations have the range of each batch by itself.

    Args:
        model: stays as it is.
    """
    changed = copy.deepcopy(model).eval()
    fakequant.fake_quantize(changed)
    for module in changed.modules():
        if isinstance(module, FakeQuantized):
            module.input = _Momentary()
    return changed.eval()


class _Momentary(Observer):
    """Fake-quantizes a batch over its own range."""

    def watch(self, x: Tensor) -> None:
        self.low.copy_(x.min().clamp(max=0))
        self.high.copy_(x.max().clamp(min=0))

    def forward(self, x: Tensor) -> Tensor:
        self.watch(x)
        return super().forward(x)


def _observers(model: Classifier) -> list[Observer]:
    return [module for module in model.modules() if isinstance(module, Observer)]
