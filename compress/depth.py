"""Fewer layers: a network that starts from some of another's."""

import copy

from torch import nn

from winnow.ssl.trunk import Encoder


def shallower(encoder: Encoder, layers: list[int]) -> Encoder:
    """Copy an encoder with some of its layers only; all else is copied whole.

    Args:
        encoder: what is copied.
        layers: kept layers, from 0, in order.

    Raises:
        ValueError: if there is no such layer, or they are out of order.

    Paper: DistilBERT (Sanh et al. 2019, arXiv 1910.01108), section 2, student initialization.
    """
    depth = len(encoder.layers)
    if not layers or layers != sorted(set(layers)) or layers[0] < 0 or layers[-1] >= depth:
        raise ValueError(f"layers must ascend within 0 to {depth - 1}, not {layers}")
    student = copy.deepcopy(encoder)
    student.layers = nn.ModuleList(student.layers[number] for number in layers)
    if len(encoder.relative) > 1:  # one for each layer
        student.relative = nn.ModuleList(student.relative[number] for number in layers)
    student.shape = encoder.shape.keeping(layers)
    return student
