"""classifier → shallower classifier, taught by it."""

import copy
from pathlib import Path
from typing import Any

from torch import nn

from winnow.compress import teaching
from winnow.compress.teaching import Distillation, Taught
from winnow.data import store
from winnow.data.modality import Modality
from winnow.ssl import model as models
from winnow.ssl import train
from winnow.ssl.model import Classifier
from winnow.ssl.train import Optimization


def shallower(teacher: Classifier, layers: list[int]) -> Classifier:
    """Copy a classifier with some of its layers only; all else is copied whole.

    Args:
        teacher: what is copied.
        layers: kept layers, from 0, in order.

    Raises:
        ValueError: if there is no such layer, or they are out of order.

    Paper: DistilBERT (Sanh et al. 2019, arXiv 1910.01108), section 2, student initialization.
    """
    depth = len(teacher.encoder.layers)
    if not layers or layers != sorted(set(layers)) or layers[0] < 0 or layers[-1] >= depth:
        raise ValueError(f"layers must ascend within 0 to {depth - 1}, not {layers}")
    student = copy.deepcopy(teacher)
    encoder = student.encoder
    encoder.layers = nn.ModuleList(encoder.layers[number] for number in layers)
    if len(encoder.relative) > 1:  # one for each layer
        encoder.relative = nn.ModuleList(encoder.relative[number] for number in layers)
    encoder.shape = encoder.shape.keeping(layers)
    return student


class Distilled(Taught):
    """Teaches a shallower copy of the teacher.

    Args:
        modality: of the samples.
        classes: of the samples.
        teacher: folder of the classifier that is copied and that teaches.
        layers: its layers that the student starts from.
        distillation: what counts how much.
        optimization: learning rate and its schedule.
        seed: of dropout.
    """

    def __init__(
        self,
        modality: Modality,
        classes: list[str],
        teacher: Path,
        layers: list[int],
        distillation: Distillation,
        optimization: Optimization,
        seed: int,
    ) -> None:
        taught = models.load_classifier(Path(teacher))
        student = shallower(taught, layers)
        super().__init__(student, taught, modality, classes, distillation, optimization, seed)


def main(
    modality: Modality,
    ingest: Path,
    labels: Path,
    teacher: Path,
    out: Path,
    *,
    model: dict[str, Any],
    data: dict[str, Any],
    trainer: dict[str, Any],
    threads: int,
    logs: Path,
) -> None:
    """Distill on the train split; what has no label is learned from the teacher alone.

    Args:
        modality: what the samples are.
        ingest: samples.
        labels: folder of the last round's decisions.
        teacher: folder of a classifier.
        out: receives `model.safetensors`, `config.json`, `history.csv`, `metrics.json`.
        model: arguments of `Distilled`.
        data: arguments of `Samples`.
        trainer: arguments of Lightning's `Trainer`.
        threads: of torch.
        logs: receives logs and checkpoints.
    """
    method, history = teaching.teach(
        Distilled,
        modality,
        ingest,
        labels,
        model={"teacher": str(teacher), **model},
        data=data,
        trainer=trainer,
        threads=threads,
        logs=logs,
        callbacks=(),
    )
    models.save(method.student, out, layers=model["layers"])
    history.write(out / "history.csv")
    metrics = {
        "val_accuracy": teaching.validation_accuracy(method, method.student),
        "teacher_val_accuracy": teaching.validation_accuracy(method, method.teacher),
        "parameters": teaching.parameters(method.student),
        "teacher_parameters": teaching.parameters(method.teacher),
    }
    store.write_json(out / "metrics.json", metrics)


if __name__ == "__main__":
    train.run(main, Distilled)
