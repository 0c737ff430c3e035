"""A classifier that was trained in fake int8 → what is shipped of it: integers and an ONNX file, checked."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from winnow.compress import export, fakequant, folding, integer, runtimes, saturation
from winnow.compress.runtimes import OnnxRuntime
from winnow.compress.sparsity import Keep, require_zeros
from winnow.data.batches import Batch
from winnow.ssl import classification
from winnow.ssl import model as models
from winnow.ssl.model import Classifier
from winnow.ssl.trunk import Encoder

MIN_AGREEMENT = 0.99  # of ONNX Runtime with torch; below it the file is another model

_log = logging.getLogger(__name__)


def ship(
    student: Classifier, keep: Keep, samples: Batch, out: Path, notes: Mapping[str, Any], threads: int
) -> dict[str, float]:
    """Write `quantized.safetensors`, `model.onnx`, and `model.safetensors` with `config.json`.

    Args:
        student: fake-quantized and trained; what is silent is cut out here, what stays float is rounded.
        keep: its locked pattern by name of the matrix, True = kept; empty if it is dense.
        samples: of the validation split, on which the file is compared with the network.
        out: the folder.
        notes: what later stages should know, as plain JSON.
        threads: of ONNX Runtime.

    Returns:
        What was measured: see `saturating` and `compare`.

    Raises:
        RuntimeError: if network or integers do not hold the pattern, or the file is another model.
    """
    require_zeros(student, keep)
    folding.cut(student.encoder)
    fakequant.round_rest(student)
    master = Classifier(Encoder(student.encoder.modality, student.encoder.shape), student.classes)
    master.load_state_dict(fakequant.master_weights(student))
    models.save(master, out, **notes)
    integers = integer.to_integers(student)
    integer.require_zeros(integers, {name: student.get_parameter(name) != 0 for name in keep})
    integer.save(integers, out / "quantized.safetensors")
    # What is shipped is made from the file, not from memory: the two cannot drift apart.
    integers = integer.load(out)
    export.to_onnx(integers, samples.x, out / "model.onnx")
    return {**saturating(integers, samples), **compare(student, out / "model.onnx", samples, threads)}


def saturating(integers: Classifier, samples: Batch) -> dict[str, float]:
    """Say how many outputs kernels would get wrong that add products in 16 bits."""
    found = saturation.measure(integers, samples.x[:64])
    if found.measured:
        _log.warning(
            "on CPUs without VNNI, %.2g %% of the outputs of 64 validation samples would saturate; "
            "with model.bits.layers = 7 none can",
            100 * found.measured,
        )
    return {
        "saturation_possible": round(found.possible, 6),
        "saturation_measured": round(found.measured, 6),
    }


def compare(student: Classifier, path: Path, samples: Batch, threads: int) -> dict[str, float]:
    """Run the file and the network it was made from on the same samples.

    Raises:
        RuntimeError: if they give different classes too often.
    """
    wanted = classification.predict(student, samples.x, 256)
    found = runtimes.logits(OnnxRuntime(path, threads), samples.x, 256)
    agreement = float(np.mean(found.argmax(1) == wanted.argmax(1).numpy()))
    if agreement < MIN_AGREEMENT:
        raise RuntimeError(
            f"{path.name} agrees with the trained network on {agreement:.1%} of the validation "
            f"samples only, less than {MIN_AGREEMENT:.0%}"
        )
    return {
        "onnx_val_accuracy": round(classification.accuracy(torch.from_numpy(found), samples.label), 6),
        "onnx_agreement": round(agreement, 6),
        "onnx_max_logit_difference": round(float(np.abs(found - wanted.numpy()).max()), 4),
    }
