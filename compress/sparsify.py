"""encoder → sparse encoder, once for all tasks."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from winnow.compress import pruning
from winnow.compress.depth import shallower
from winnow.compress.patterns import Pattern
from winnow.compress.schedules import Span
from winnow.data import store
from winnow.data.modality import Modality
from winnow.data.stage import run
from winnow.ssl import train
from winnow.ssl.data2vec import Data2Vec, Loss
from winnow.ssl.ema import Ema
from winnow.ssl.instances import InstanceShape
from winnow.ssl.masking import Masking
from winnow.ssl.method import start
from winnow.ssl.predictors import DecoderShape, HeadShape
from winnow.ssl.targets import Target
from winnow.ssl.train import Optimization

STILL = Ema(start=1.0, end=1.0, ramp=0.0, steps=None, shared=())  # the teacher is dense, and stays so


class Sparsified(Data2Vec):
    """Trains an encoder on as it was pretrained, while `Pruning` takes its weights away.

    The target is that of pretraining, but the teacher is the dense encoder, which no longer follows: what
    the student predicts of hidden tokens, and keeps of visible ones, is what it knew when it was whole.

    Args:
        modality: of the samples.
        encoder: folder of the encoder that teaches, and that the student starts as.
        layers: its layers that the student starts from.
        masking: as in pretraining, like all that follows.
        masks: views of a sample for each pass of the teacher.
        complementary: every second mask hides what the one before it shows.
        target: what is predicted; of all the teacher's layers if it has fewer than are asked for.
        predictor: starts anew.
        loss: what a wrong prediction costs.
        instances: how views of one sample are recognised; null: they are not asked to be.
        optimization: learning rate and its schedule.
        frontend_lr: factor of the learning rate of the frontend.
        seed: of masks and dropout.

    Raises:
        ValueError: if the encoder reads other samples, or has not these layers.

    Paper: Prune Once for All (Zafrir et al. 2021, arXiv 2111.05754), section 3.2.
    """

    def __init__(
        self,
        modality: Modality,
        encoder: Path,
        layers: list[int],
        masking: Masking,
        masks: int,
        complementary: bool,
        target: Target,
        predictor: DecoderShape | HeadShape,
        loss: Loss,
        instances: InstanceShape | None,
        optimization: Optimization,
        frontend_lr: float,
        seed: int,
    ) -> None:
        dense = start(Path(encoder), modality, 0.0)
        super().__init__(
            modality,
            dense.shape,
            masking,
            masks,
            complementary,
            replace(target, layers=min(target.layers, len(dense.layers))),
            predictor,
            loss,
            instances,
            STILL,
            optimization,
            frontend_lr,
            seed,
        )
        self.student = shallower(dense, layers)
        self.teacher.load_state_dict(dense.state_dict())
        self.train()

    def update_teacher(self, decay: float) -> None:
        """Leave the teacher as it is."""


def main(
    modality: str,
    ingest: Path,
    labels: Path,
    encoder: Path,
    out: Path,
    *,
    sparsity: float,
    pattern: Pattern,
    scope: Literal["layer", "global", "erk"],
    score: Literal["magnitude", "movement", "fisher"],
    schedule: Span,
    model: dict[str, Any],
    data: dict[str, Any],
    trainer: dict[str, Any],
    threads: int,
    sections: dict[str, Any],
    logs: Path,
) -> None:
    """Prune an encoder before any task is known, with the objective and the data of its pretraining.

    Args:
        modality: name of its section in params.yaml.
        ingest: samples.
        labels: decisions, of which only the drops matter here.
        encoder: folder of the encoder that teaches and that the student starts as.
        out: receives `model.safetensors`, `config.json`, `history.csv`, `layers.csv`, `metrics.json`.
        sparsity: fraction of zeros in all pruned matrices, in the end [0–1).
        pattern: what is pruned together.
        scope: the same sparsity in each layer, one threshold for all, or more of small matrices kept.
        score: what is kept.
        schedule: when; the learning rate is best held (`optimization.hold`) until its end.
        model: `layers` that the student starts from, and what replaces settings of the same name in the
            modality's `pretrain.model`.
        data: the same of `pretrain.data`.
        trainer: arguments of Lightning's `Trainer`.
        threads: of torch.
        sections: all of params.yaml.
        logs: receives logs and checkpoints.

    Raises:
        BadInput: if the pattern does not go with the sparsity or the scope.
    """
    prunings = pruning.make(sparsity, pattern, scope, score, schedule, pruning.NONE)
    pretrained = sections[modality]["pretrain"]
    own = {key: value for key, value in pretrained["model"].items() if key not in {"shape", "ema"}}
    samples = {
        "modality": sections[modality]["modality"],
        "ingest": str(ingest),
        "labels": str(labels),
        "labelled": False,
    }
    method, history = train.fit(
        Sparsified,
        model={**own, "encoder": str(encoder), **model},
        data={**samples, **pretrained["data"], **data},
        trainer=trainer,
        threads=threads,
        logs=logs,
        callbacks=tuple(prunings),
    )
    pruning.save(method.student, prunings, out, pruning.NONE, scope=scope, score=score)
    history.write(out / "history.csv")
    last = history.rows[max(history.rows)]
    store.write_json(out / "metrics.json", {name: round(last[name], 6) for name in sorted(last)})


if __name__ == "__main__":
    run(main)  # not as LightningCLI, whose `fit` would know nothing of the pruning that main adds
