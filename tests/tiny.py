"""A classifier that trains in a moment: 8×8 pixels, four tokens, the bright corner is the class."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning
import tiny_trunk
import torch
from tiny_trunk import SHAPE
from torch import Tensor
from torch.utils.data import DataLoader

from winnow.compress.imitation import Relations
from winnow.compress.sparsity import magnitude_keep, prunable
from winnow.compress.teaching import Distillation, Taught
from winnow.data.batches import Batch
from winnow.data.modality import Modality
from winnow.data.vision import Vision
from winnow.ssl.checkpoint import PlainCheckpoint
from winnow.ssl.classification import Classification
from winnow.ssl.model import Classifier
from winnow.ssl.shape import Shape
from winnow.ssl.trunk import Encoder

CLASSES = ["left", "right", "top"]
OPTIMIZATION = replace(tiny_trunk.OPTIMIZATION, lr=5e-3, hold=0.5, weight_decay=0.1, betas=(0.9, 0.99))
DISTILLATION = Distillation(
    weight=0.5,
    temperature=2.0,
    label_smoothing=0.0,
    latents=0.0,
    relations=Relations(weight=0.0, heads=2, layer=-1),
)


def classifier(seed: int = 0, shape: Shape = SHAPE) -> Classifier:
    torch.manual_seed(seed)
    modality = Vision(size=8, patch=4, channels=1)
    return Classifier(Encoder(modality, shape), CLASSES).eval()


def samples(number: int, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(0, len(CLASSES), (number,), generator=generator)
    x = torch.rand(number, 1, 8, 8, generator=generator)
    for i, corner in enumerate(label.tolist()):
        x[i, 0, 4 * (corner // 2) :, 4 * (corner % 2) :][:4, :4] += 1
    return Batch(x, label, torch.arange(number) + seed * number)


def classification(encoder: Path, modality: Modality | None = None, **changed: Any) -> Classification:
    """Fine-tune what a folder holds; unless it is changed, without any of the options."""
    settings: dict[str, Any] = {"dropout": 0.0, "label_smoothing": 0.0, "optimization": OPTIMIZATION}
    off: dict[str, Any] = {
        "layer_decay": 1.0,
        "freeze": 0.0,
        "mixup": None,
        "inverse_penalty": None,
        "seed": 0,
    }
    made = modality or Vision(size=8, patch=4, channels=1)
    classes = changed.pop("classes", CLASSES)
    return Classification(made, classes, encoder, **{**settings, **off, **changed})


def taught(student: Classifier, teacher: Classifier, **changed: Any) -> Taught:
    settings: dict[str, Any] = {"distillation": DISTILLATION, "optimization": OPTIMIZATION}
    modality = teacher.encoder.modality
    return Taught(student, teacher, modality, CLASSES, **{**settings, **changed}, seed=0)


def trainer(steps: int, *callbacks: lightning.Callback) -> lightning.Trainer:
    return lightning.Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
        plugins=[PlainCheckpoint()],
    )


def fit(method: Taught, steps: int, *callbacks: lightning.Callback) -> lightning.Trainer:
    running = trainer(steps, *callbacks)
    running.fit(method, batches(steps), batches(1))
    return running


def batches(steps: int, start: int = 0) -> DataLoader[Batch]:
    drawn = [samples(32, seed=step) for step in range(start, steps)]
    return DataLoader(drawn, batch_size=None)  # type: ignore[arg-type]


def sparsify(model: torch.nn.Module) -> dict[str, Tensor]:
    """Prune three of four blocks of a model, and tell which weights are kept."""
    keep = {n: magnitude_keep(w, 0.75, (1, 4), "average") for n, w in prunable(model).items()}
    with torch.no_grad():
        for name, weight in prunable(model).items():
            weight.mul_(keep[name])
    return keep
