"""classifier → shallower and narrower classifier, taught by it."""

import copy
from pathlib import Path
from typing import Any

from winnow.compress import slicing, teaching
from winnow.compress.depth import shallower
from winnow.compress.slicing import Slicing
from winnow.compress.teaching import Distillation, Taught
from winnow.data import store
from winnow.data.batches import cut
from winnow.data.modality import Modality
from winnow.ssl import model as models
from winnow.ssl import train
from winnow.ssl.classification import label_costs
from winnow.ssl.train import Optimization

BATCH = 64  # samples that importance is measured of at a time; it depends on their number by rounding alone


class Distilled(Taught):
    """Teaches a copy of the teacher that has fewer layers, heads and channels.

    Args:
        modality: of the samples.
        classes: of the samples.
        teacher: folder of the classifier that is copied and that teaches.
        layers: its layers that the student starts from.
        heads: share of each one's attention heads that is left (0–1].
        channels: the same of feed-forward channels (0–1].
        slicing: how they are chosen; with both shares 1 nothing is.
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
        heads: float,
        channels: float,
        slicing: Slicing,
        distillation: Distillation,
        optimization: Optimization,
        seed: int,
    ) -> None:
        taught = models.load_classifier(Path(teacher))
        student = copy.deepcopy(taught)
        student.encoder = shallower(taught.encoder, layers)
        super().__init__(student, taught, modality, classes, distillation, optimization, seed)
        self.left, self.slicing = {"heads": heads, "channels": channels}, slicing
        self.to_slice = (heads, channels) != (1.0, 1.0)

    def setup(self, stage: str) -> None:
        """Slice the student: there are samples now to choose by, and no checkpoint's weights yet."""
        if not self.to_slice:
            return
        self.to_slice, student = False, self.student
        if self.slicing.score == "magnitude":
            importance = slicing.magnitude(student.encoder)
        else:
            samples = self.trainer.datamodule.drawn("train", self.slicing.samples)  # type: ignore[attr-defined]
            parts = [range(i, min(i + BATCH, len(samples.x))) for i in range(0, len(samples.x), BATCH)]
            importance = slicing.taylor(
                student.encoder,
                lambda batch: label_costs(student(batch.x), batch.label, 0.0)[0],
                cut(samples, parts),
            )
        student.encoder = slicing.sliced(student.encoder, importance, self.slicing, **self.left)


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
