"""classifier → shallower classifier, taught by it."""

import copy
from pathlib import Path
from typing import Any

from winnow.compress import teaching
from winnow.compress.depth import shallower
from winnow.compress.teaching import Distillation, Taught
from winnow.data import store
from winnow.data.modality import Modality
from winnow.ssl import model as models
from winnow.ssl import train
from winnow.ssl.train import Optimization


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
        student = copy.deepcopy(taught)
        student.encoder = shallower(taught.encoder, layers)
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
