"""A classifier learns from labels and from another one: how all stages of compression train."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Int
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.nn import functional

from winnow.compress import imitation
from winnow.compress.imitation import Latents, Relations
from winnow.data.batches import Batch
from winnow.data.modality import Modality
from winnow.ssl import model as models
from winnow.ssl import train
from winnow.ssl.classification import accuracy, label_loss, label_measures, predict
from winnow.ssl.method import Method
from winnow.ssl.model import Classifier
from winnow.ssl.train import History, Optimization


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """What counts how much.

    Attributes:
        weight: of the teacher; the labels have the rest [0–1].
        temperature: that all logits are divided by; above 1, the unlikely classes count too.
        label_smoothing: probability that labels give to all classes alike [0–1].
        latents: weight of the layers' outputs, beside that of classes and labels; 0: they do not count.
        relations: how tokens are to relate.

    Raises:
        ValueError: if a weight is negative.
    """

    weight: float
    temperature: float
    label_smoothing: float
    latents: float
    relations: Relations

    def __post_init__(self) -> None:
        for name, weight in (("latents", self.latents), ("relations.weight", self.relations.weight)):
            if weight < 0:
                raise ValueError(f"distillation.{name} must be 0 or more, not {weight}")


def distillation_loss(
    student: Float[Tensor, "batch class"], teacher: Float[Tensor, "batch class"], temperature: float
) -> Float[Tensor, ""]:
    """Give the divergence of the student's classes from the teacher's, per sample, times T².

    The factor keeps the gradient's size independent of the temperature.

    Paper: Distilling the Knowledge in a Neural Network (Hinton et al. 2015, arXiv 1503.02531),
    section 2.
    """
    divergence = functional.kl_div(
        functional.log_softmax(student / temperature, 1),
        functional.log_softmax(teacher / temperature, 1),
        reduction="batchmean",
        log_target=True,
    )
    return temperature**2 * divergence


class Taught(Method):
    """Trains a classifier from labels and a frozen teacher; unlabelled samples are taught too.

    A stage's method is a subclass whose arguments are paths and numbers, so that a config file
    describes a run.

    Args:
        student: what is trained and kept.
        teacher: what it learns from; stands outside of checkpoints, optimizer and gradients.
        modality: of the samples.
        classes: of the samples.
        distillation: what counts how much.
        optimization: learning rate and its schedule.
        seed: of dropout.

    Raises:
        ValueError: if a model was made for other samples or other classes, or their insides are to be
            alike and cannot be compared.
    """

    def __init__(
        self,
        student: Classifier,
        teacher: Classifier,
        modality: Modality,
        classes: list[str],
        distillation: Distillation,
        optimization: Optimization,
        seed: int,
    ) -> None:
        super().__init__(optimization, seed)
        for role, model in (("student", student), ("teacher", teacher)):
            _require_fit(role, model, modality, classes)
        self.student = student.train()  # Lightning leaves it in the mode that it comes in
        # In a tuple, where torch does not see it: no part of state_dict, optimizer or train().
        self._hidden = (teacher.requires_grad_(False).eval(),)
        self.distillation, self.latents = distillation, None
        if distillation.relations.weight:
            imitation.require_relations(student.encoder, teacher.encoder, distillation.relations)
        if distillation.latents:
            if student.encoder.drop_layer:
                raise ValueError("distillation.latents needs a student without shape.drop_layer")
            self.latents = Latents(student.encoder, teacher.encoder)

    @property
    def kept(self) -> Classifier:
        return self.student

    @property
    def teacher(self) -> Classifier:
        return self._hidden[0]

    def on_fit_start(self) -> None:
        super().on_fit_start()
        self.teacher.to(self.device)

    def loss(self, batch: Batch) -> Float[Tensor, ""]:
        """Give what a batch is to be taught: the teacher's classes and inside, and the labels."""
        relations = self.distillation.relations
        with torch.no_grad():
            teacher = imitation.look(self.teacher, batch.x, relations.layer if relations.weight else None)
        student = imitation.look(self.student, batch.x, -1 if relations.weight else None)
        taught = distillation_loss(student.logits, teacher.logits, self.distillation.temperature)
        told = label_loss(student.logits, batch.label, self.distillation.label_smoothing)
        loss = self.distillation.weight * taught + (1 - self.distillation.weight) * told
        if self.latents is not None:
            loss = loss + self.distillation.latents * self.latents(student, teacher)
        if relations.weight:
            loss = loss + relations.weight * imitation.relation_loss(student, teacher, relations.heads)
        return loss

    def costs(self, batch: Batch) -> tuple[Float[Tensor, ""], Int[Tensor, ""]]:
        size = torch.tensor(len(batch.x), device=self.device)
        return size * self.loss(batch), size

    def measures(self, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        return label_measures(self.student(batch.x), batch.label)


def _require_fit(role: str, model: Classifier, modality: Modality, classes: list[str]) -> None:
    if model.classes != classes:
        raise ValueError(f"the {role} knows the classes {model.classes}, the dataset {classes}")
    models.require_modality(role, model.encoder, modality)


Lesson = TypeVar("Lesson", bound=Taught)


def teach(
    method: type[Lesson],
    modality: Modality,
    ingest: Path,
    labels: Path,
    *,
    model: dict[str, Any],
    data: dict[str, Any],
    trainer: dict[str, Any],
    threads: int,
    logs: Path,
    callbacks: Sequence[Callback],
) -> tuple[Lesson, History]:
    """Train a method on samples with and without label; arguments as `winnow.ssl.train.fit`."""
    samples = {
        "modality": models.section(modality),
        "ingest": str(ingest),
        "labels": str(labels),
        "labelled": False,
    }
    return train.fit(
        method,
        model=model,
        data={**samples, **data},
        trainer=trainer,
        threads=threads,
        logs=logs,
        callbacks=tuple(callbacks),
    )


def validation(method: Taught) -> Batch:
    """Give the validation split that a method was trained beside."""
    return method.trainer.datamodule.read("validation")  # type: ignore[attr-defined]


def validation_accuracy(method: Taught, model: Classifier) -> float:
    """Give the accuracy of a model, the student or the teacher, on that split [0–1]."""
    samples = validation(method)
    return round(accuracy(predict(model, samples.x, 256), samples.label), 6)


def parameters(model: Classifier) -> int:
    """Count the parameters."""
    return sum(parameter.numel() for parameter in model.parameters())
