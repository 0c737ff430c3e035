"""teacher + sparse int8 classifier → dense int8 classifier of as many bytes: what sparsity has to beat."""

import logging
import math
from bisect import bisect_right
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal

import torch

from winnow.compress import bundle, fakequant, integer, packing, parts, shipping, teaching
from winnow.compress.fakequant import Bits, Observer
from winnow.compress.teaching import Distillation, Taught
from winnow.data import store
from winnow.data.batches import Batch
from winnow.data.modality import Modality
from winnow.data.stage import BadInput, run
from winnow.ssl import model as models
from winnow.ssl.model import Classifier
from winnow.ssl.shape import Shape
from winnow.ssl.train import Optimization
from winnow.ssl.trunk import Encoder
from winnow.ssl.vit import TimmShape

Match = Literal["bundle", "encoder"]

_log = logging.getLogger(__name__)


class Narrow(Taught):
    """Teaches a narrow dense classifier from random weights, and in the end in int8 arithmetic.

    Args:
        modality: of the samples.
        classes: of the samples.
        teacher: folder of the classifier that teaches.
        sparse_int8: folder of the classifier whose layers and switches it has.
        dim: its width.
        heads: of each layer.
        mlp_ratio: hidden width of the feed-forward part, in multiples of `dim`.
        quantize: fraction of the run after which it feels int8 [0–1].
        observe: fraction of the run after which activations' ranges stay [0–1].
        bits: of weights.
        distillation: what counts how much.
        optimization: learning rate and its schedule.
        seed: of dropout.
    """

    def __init__(
        self,
        modality: Modality,
        classes: list[str],
        teacher: Path,
        sparse_int8: Path,
        dim: int,
        heads: int,
        mlp_ratio: float,
        quantize: float,
        observe: float,
        bits: Bits,
        distillation: Distillation,
        optimization: Optimization,
        seed: int,
    ) -> None:
        shape = narrower(integer.load(Path(sparse_int8)).encoder.shape, dim, heads, mlp_ratio)
        student = Classifier(Encoder(modality, shape), classes)
        taught = models.load_classifier(Path(teacher))
        super().__init__(student, taught, modality, classes, distillation, optimization, seed)
        if not 0 <= quantize < observe <= 1:
            raise ValueError(f"quantize {quantize} must be below observe {observe}, both within 0 and 1")
        self.quantize, self.observe, self.bits = quantize, observe, bits
        self._float = True

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        super().on_train_batch_start(batch, batch_idx)
        done = self.global_step / self.trainer.max_steps
        if self._float and done >= self.quantize:
            # The parameters stay the same objects, so the optimizer goes on with what it knows of them.
            fakequant.fake_quantize(self.student, self.bits)
            self._float = False
        if done >= self.observe:
            fakequant.freeze(self.student)


def main(
    modality: Modality,
    ingest: Path,
    labels: Path,
    teacher: Path,
    sparse_int8: Path,
    out: Path,
    *,
    match: Match,
    model: dict[str, Any],
    data: dict[str, Any],
    trainer: dict[str, Any],
    threads: int,
    logs: Path,
) -> None:
    """Train the widest dense classifier that takes no more bytes, as deep and as long as the sparse one.

    It starts at random, since a narrow network has no use for the matrices of a wide one.

    Args:
        modality: what the samples are.
        ingest: samples.
        labels: folder of the last round's decisions.
        teacher: folder of the classifier that teaches.
        sparse_int8: folder of the quantized sparse classifier, whose bytes count.
        out: receives what `quantize` writes: `model.onnx`, `quantized.safetensors`, `model.safetensors`,
            `config.json`, `history.csv`, `metrics.json`.
        match: which bytes are to be as many: of all weights in the bundle, or of the encoder's, without
            frontend, positions, embeddings and head. Of texts the embeddings are most of a bundle.
        model: arguments of `Narrow`.
        data: arguments of `Samples`.
        trainer: arguments of Lightning's `Trainer`.
        threads: of torch.
        logs: receives logs and checkpoints.

    Raises:
        BadInput: if no width is narrow enough.
        RuntimeError: if the file does not do what the trained network does.
    """
    sparse = integer.load(sparse_int8)
    budget = size(sparse, match)
    shape = largest(sparse, match, model["heads"], Bits(**model["bits"]))
    folders = {"teacher": str(teacher), "sparse_int8": str(sparse_int8)}
    method, history = teaching.teach(
        Narrow,
        modality,
        ingest,
        labels,
        model={**folders, "dim": shape.dim, "mlp_ratio": shape.mlp_ratio, **model},
        data=data,
        trainer=trainer,
        threads=threads,
        logs=logs,
        callbacks=(),
    )
    history.write(out / "history.csv")
    parameters = teaching.parameters(method.student)
    samples = teaching.validation(method)
    shipped = shipping.ship(method.student, {}, samples, out, {"control": match}, threads)
    taken = size(integer.load(out), match)
    if taken > budget:
        _log.warning(
            "the control takes %d bytes, %.1f %% more than the sparse", taken, 100 * (taken / budget - 1)
        )
    metrics = {
        "val_accuracy": teaching.validation_accuracy(method, method.student),
        "teacher_val_accuracy": teaching.validation_accuracy(method, method.teacher),
        "dim": shape.dim,
        "mlp_ratio": round(shape.mlp_ratio, 4),
        "parameters": parameters,
        "bytes": taken,
        "sparse_bytes": budget,
        **shipped,
    }
    store.write_json(out / "metrics.json", metrics)


def narrower(shape: Shape | TimmShape, dim: int, heads: int, mlp_ratio: float) -> Shape:
    """Give the shape of a trunk of another width.

    Raises:
        BadInput: if it is one of timm's, whose width goes with its name.
    """
    if not isinstance(shape, Shape):
        raise BadInput(f"control makes winnow's own trunks narrower, and {shape.timm} is one of timm's")
    whole = {field.name: getattr(shape, field.name) for field in fields(Shape)}  # of a sliced one, too
    return Shape(**{**whole, "dim": dim, "heads": heads, "mlp_ratio": mlp_ratio})


def size(model: Classifier, match: Match) -> int:
    """Count the bytes of an int8 classifier's weights as a bundle holds them, all or the encoder's."""
    packed = bundle.weights(model)
    if match == "bundle":
        return len(packed)
    return sum(taken for (group, _), taken in packing.sizes(packed).items() if group in parts.ENCODER)


def largest(sparse: Classifier, match: Match, heads: int, bits: Bits) -> Shape:
    """Find the largest shape of a dense classifier that takes no more bytes than the sparse one.

    That is the largest width, and then, as widths come in steps, the widest feed-forward part. Untrained
    networks tell: their whole numbers fill the same range as those of a trained one, and pack alike.

    Args:
        sparse: the int8 classifier.
        match: which bytes.
        heads: of each layer.
        bits: of weights.

    Raises:
        BadInput: if the narrowest takes more.
    """
    encoder, budget = sparse.encoder, size(sparse, match)
    wide = narrower(encoder.shape, encoder.dim, heads, getattr(encoder.shape, "mlp_ratio", 0))
    step = heads
    if wide.positions == "sincos":
        step = math.lcm(step, 2 * len(encoder.modality.grid))
    if wide.convolutions is not None:
        step = math.lcm(step, wide.convolutions.groups)

    def taken(shape: Shape) -> int:
        torch.manual_seed(0)
        return size(_untrained(Classifier(Encoder(encoder.modality, shape), sparse.classes), bits), match)

    shapes = [replace(wide, dim=dim) for dim in range(step, wide.dim + 1, step)]
    with torch.random.fork_rng():
        fitting = bisect_right(shapes, budget, key=taken)
        if not fitting:
            raise BadInput(
                f"the sparse classifier's {match} takes {budget} bytes, and a dense one of width {step}, the "
                f"least for {heads} heads, takes more: set control.model.heads lower"
            )
        if fitting == len(shapes):
            return shapes[-1]
        shape = shapes[fitting - 1]
        narrow = int(shape.dim * shape.mlp_ratio)
        # Up to twice as wide; the next number above a ratio, so that no rounding makes it one unit less.
        ratios = [math.nextafter(width / shape.dim, math.inf) for width in range(narrow, 2 * narrow + 1)]
        shapes = [replace(shape, mlp_ratio=ratio) for ratio in ratios]
        return shapes[bisect_right(shapes, budget, key=taken) - 1]


@torch.no_grad()
def _untrained(model: Classifier, bits: Bits) -> Classifier:
    """Give the int8 form of a network that has seen nothing."""
    for parameter in model.parameters():
        if parameter.dim() == 1:  # those start alike, and would pack to nothing
            parameter.add_(0.1 * torch.randn_like(parameter))
    fakequant.fake_quantize(model, bits)
    for module in model.modules():
        if isinstance(module, Observer):
            module.take(torch.tensor(-1.0), torch.tensor(1.0))
    fakequant.round_rest(model)
    return integer.to_integers(model)


if __name__ == "__main__":
    run(main)  # not as LightningCLI, whose `fit` would keep ranges of activations, too
