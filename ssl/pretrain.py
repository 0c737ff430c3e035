"""curated samples → encoder, without labels."""

from pathlib import Path
from typing import Any

from winnow.data import store
from winnow.data.modality import Modality
from winnow.ssl import model as models
from winnow.ssl import train
from winnow.ssl.data2vec import Data2Vec


def main(
    modality: Modality,
    ingest: Path,
    labels: Path,
    out: Path,
    *,
    model: dict[str, Any],
    data: dict[str, Any],
    trainer: dict[str, Any],
    monitor: dict[str, Any],
    threads: int,
    logs: Path,
) -> None:
    """Pretrain on the train split; labelled or not makes no difference.

    Args:
        modality: what the samples are.
        ingest: samples.
        labels: decisions, of which only the drops matter here.
        out: receives `model.safetensors`, `config.json`, `history.csv`, `metrics.json`.
        model: arguments of `Data2Vec`.
        data: arguments of `Samples`.
        trainer: arguments of Lightning's `Trainer`.
        monitor: arguments of `CollapseMonitor`: when to call a run collapsed.
        threads: of torch.
        logs: receives logs and checkpoints.
    """
    samples = {
        "modality": models.section(modality),
        "ingest": str(ingest),
        "labels": str(labels),
        "labelled": False,
    }
    watch = {"class_path": "winnow.ssl.monitor.CollapseMonitor", "init_args": monitor}
    method, history = train.fit(
        Data2Vec,
        model=model,
        data={**samples, **data},
        trainer={**trainer, "callbacks": [*trainer.get("callbacks", []), watch]},
        threads=threads,
        logs=logs,
    )
    models.save(method.student, out)
    history.write(out / "history.csv")
    last = history.rows[max(history.rows)]
    store.write_json(out / "metrics.json", {name: round(last[name], 6) for name in sorted(last)})


if __name__ == "__main__":
    train.run(main, Data2Vec)
