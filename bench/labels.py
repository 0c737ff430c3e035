"""How far few labels go: fine-tuning from a pretrained encoder, and what it has to beat.

`python -m bench.labels WORKSPACE` reads what `ingest` wrote to WORKSPACE/out (`make real` writes build/real),
pretrains without labels on the train split, and learns from 1, 10 and 100 % of that split's true labels:

- `descriptors`: logistic regression on cheap vectors: log-mel statistics, pixels or edges, TF-IDF;
- `untrained`: the same on frozen features of the network as it begins;
- `frozen`: the same on those of the pretrained encoder;
- `scratch`: the network fine-tuned from where it begins;
- `fine-tuned`: the same from the pretrained encoder, its head a logistic regression at first.

The penalty of each regression is the best of four by the test split: in favour of what is to be beaten. What
differs from params.yaml stands in bench/labels.yaml. A seed draws weights, batches, variants and labels. With
`--ablate`, the probe reads encoders of which one part of the method was another.
"""

import argparse
import logging
import tempfile
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml
from jaxtyping import Int
from threadpoolctl import threadpool_limits

from examples.real import PROJECT, laid_over
from winnow.data import folds, store
from winnow.data import modality as modalities
from winnow.data.batches import Batch, TrainBatches, Variants, stack
from winnow.data.folds import Vectors
from winnow.data.modality import Modality
from winnow.ssl import model as models
from winnow.ssl import train
from winnow.ssl.classification import Classification, pooled, predict, solve_head
from winnow.ssl.data2vec import Data2Vec
from winnow.ssl.train import Optimization
from winnow.ssl.trunk import Encoder

SHARES = (0.01, 0.1, 1.0)
CONTENDERS = ("descriptors", "untrained", "frozen", "scratch", "fine-tuned")
PENALTIES = (0.1, 1.0, 10.0, 100.0)


class Split(NamedTuple):
    """Samples with their true labels, and their descriptors."""

    samples: Batch
    descriptors: Vectors

    @property
    def labels(self) -> Int[np.ndarray, " sample"]:
        return self.samples.label.numpy()


class Field:
    """A dataset, and all that learns from it.

    Args:
        out: `out/<modality>` of a workspace.
        section: the modality's numbers.
        folder: an empty folder for encoders.
    """

    def __init__(self, out: Path, section: dict[str, Any], folder: Path) -> None:
        self.modality: Modality = modalities.build(section["modality"])
        self.ingest, self.section, self.folder = out / "ingest", section, folder
        self.classes = store.read_classes(self.ingest)
        manifest = store.read_table(self.ingest / "manifest.parquet")
        planted = self.ingest / "truth.parquet"
        if planted.exists():
            truth = store.read_table(planted).set_index("id")["label"]
            manifest["label"] = manifest["id"].map(truth).fillna(manifest["label"])
        self.train, self.test = (
            self._split(manifest[manifest["split"] == name]) for name in ("train", "test")
        )

    def _split(self, table: Any) -> Split:
        vectors = store.read_vectors(self.ingest / "descriptors", list(table["id"]))
        return Split(stack(self.modality, self.ingest, table, self.classes), vectors)

    def chosen(self, share: float, seed: int) -> Int[np.ndarray, " row"]:
        """Draw so many of each class's labels."""
        draw, rows = np.random.default_rng(seed), []
        for label in range(len(self.classes)):
            of_class = draw.permutation(np.flatnonzero(self.train.labels == label))
            rows.append(of_class[: max(round(share * len(of_class)), 1)])
        return np.sort(np.concatenate(rows))

    def pretrain(self, name: str, changes: dict[str, Any], seed: int) -> tuple[Path, Path, float]:
        """Train an encoder without labels; give its folder, that of the untrained one, and the minutes."""
        section = laid_over(self.section["pretrain"], changes)
        paths = {"ingest": str(self.ingest), "labels": str(self.ingest), "labelled": False}
        began = time.perf_counter()
        method, _ = train.fit(
            Data2Vec,
            model=section["model"],
            data=paths | section["data"] | {"modality": self.section["modality"], "seed": seed},
            trainer={**section["trainer"], "limit_val_batches": 0},
            threads=section["threads"],
            logs=self.folder / "logs" / f"{name} {seed}",
        )
        minutes = (time.perf_counter() - began) / 60
        torch.manual_seed(seed)
        encoders = method.student, Encoder(self.modality, method.student.shape).eval()
        trained, untrained = (self.folder / f"{name} {seed} {state}" for state in ("trained", "untrained"))
        for encoder, path in zip(encoders, (trained, untrained), strict=True):
            path.mkdir()
            models.save(encoder, path)
        return trained, untrained, minutes

    def regress(self, vectors: Sequence[tuple[Vectors, Vectors]], rows: Int[np.ndarray, " row"]) -> float:
        """Give the test accuracy of a logistic regression: of the best vectors and penalty."""
        found = []
        for learned, asked in vectors:
            for penalty in PENALTIES:
                model = folds.linear(learned, penalty)
                with threadpool_limits(1):
                    model.fit(learned[rows], self.train.labels[rows])
                    found.append(float((model.predict(asked) == self.test.labels).mean()))
        return max(found)

    def embedded(self, encoder: Path) -> tuple[Vectors, Vectors]:
        """Embed both splits."""
        model = models.load_encoder(encoder)
        with torch.inference_mode():
            one, other = (
                torch.cat([model.embed(part) for part in split.samples.x.split(256)]).numpy()
                for split in (self.train, self.test)
            )
        return one, other

    def finetune(
        self, encoder: Path, rows: Int[np.ndarray, " row"], share: float, seed: int, solved: bool
    ) -> float:
        """Give the test accuracy after training on the rows' labels."""
        settings = self.section["learn"]
        steps = settings["steps"][share]
        optimization = Optimization(
            **self.section["finetune"]["model"]["optimization"]
            | {"lr": settings["lr"], "batch_size": None, "betas": (0.9, 0.98)}
        )
        torch.manual_seed(seed)
        method = Classification(
            self.modality,
            self.classes,
            encoder,
            dropout=settings["dropout"],
            label_smoothing=0.1,
            layer_decay=1.0,
            freeze=0.0,
            mixup=None,
            inverse_penalty=None,
            optimization=optimization,
            seed=seed,
        )
        samples = Batch(*(tensor[torch.from_numpy(rows)] for tensor in self.train.samples))
        classifier = method.classifier
        if solved:
            solve_head(
                classifier.head,
                pooled(classifier.encoder, samples.x, 256),
                samples.label,
                settings["penalty"],
            )
        drawn = TrainBatches(
            samples,
            self.modality,
            variants=Variants(number=1, strength=settings["strength"]),
            batch_size=settings["batch_size"],
            seed=seed,
            start=0,
            rank=0,
            ranks=1,
        )
        train.briefly(method.train(), list(islice(drawn, steps)), gradient_clip=1.0, accelerator="cpu")
        found = predict(classifier, self.test.samples.x, 256).argmax(1).numpy()
        return float((found == self.test.labels).mean())


def sections() -> dict[str, Any]:
    """Read params.yaml, and lay over it what this bench changes."""
    numbers = yaml.safe_load((PROJECT / "params.yaml").read_text(encoding="utf-8"))
    changes = yaml.safe_load((PROJECT / "bench" / "labels.yaml").read_text(encoding="utf-8"))
    for name, change in changes.items():
        numbers[name]["learn"] = change.pop("finetune")
        numbers[name]["ablate"] = change.pop("ablate")
        numbers[name] = laid_over(numbers[name], change)
    return numbers


def curve(field: Field, seeds: Sequence[int], shares: Sequence[float]) -> None:
    """Print accuracy against the share of labels."""
    found: dict[tuple[str, float], list[float]] = {}
    minutes = []
    cheap: list[tuple[Vectors, Vectors]] = [(field.train.descriptors, field.test.descriptors)]
    if len(field.modality.grid) == 2:
        pixels = (split.samples.x.flatten(1).numpy() for split in (field.train, field.test))
        cheap.append((next(pixels), next(pixels)))
    for seed in seeds:
        trained, untrained, taken = field.pretrain("default", {}, seed)
        minutes.append(taken)
        frozen, random = field.embedded(trained), field.embedded(untrained)
        for share in shares:
            rows = field.chosen(share, seed)
            scores = (
                field.regress(cheap, rows),
                field.regress([random], rows),
                field.regress([frozen], rows),
                field.finetune(untrained, rows, share, seed, solved=False),
                field.finetune(trained, rows, share, seed, solved=True),
            )
            for name, score in zip(CONTENDERS, scores, strict=True):
                found.setdefault((name, share), []).append(100 * score)
            print(seed, share, [round(100 * score, 1) for score in scores], flush=True)
    print(f"{len(field.train.samples.x)} samples, {np.mean(minutes):.1f} minutes of pretraining on a thread")
    print("| | " + " | ".join(f"{share:.0%} of labels" for share in shares) + " |")
    print("|---|" + "---|" * len(shares))
    for name in CONTENDERS:
        row = (found[name, share] for share in shares)
        print(f"| {name} | " + " | ".join(f"{np.mean(x):.1f} ± {np.std(x):.1f}" for x in row) + " |")


def ablate(field: Field, seeds: Sequence[int], shares: Sequence[float]) -> None:
    """Print what a probe reads of the encoder if a part of the method is another."""
    heads = " | ".join(f"{share:.0%} of labels" for share in shares)
    print(f"| frozen | minutes | {heads} |\n|---|---|" + "---|" * len(shares))
    for name, changes in ({"as it is": {}} | field.section["ablate"]).items():
        found = np.empty((len(seeds), len(shares)))
        minutes = []
        for row, seed in enumerate(seeds):
            trained, _, taken = field.pretrain(name, changes, seed)
            minutes.append(taken)
            frozen = field.embedded(trained)
            found[row] = [100 * field.regress([frozen], field.chosen(share, seed)) for share in shares]
        cells = (f"{column.mean():.1f} ± {column.std():.1f}" for column in found.T)
        print(f"| {name} | {np.mean(minutes):.1f} | " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.labels",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("workspace", type=Path, help="with out/<modality>/ingest")
    parser.add_argument("--modalities", nargs="+", default=["speech", "vision", "text"])
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--shares", type=float, nargs="+", default=SHARES, help="of the labels")
    parser.add_argument("--ablate", action="store_true", help="change the method instead, part by part")
    asked = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for name in asked.modalities:
        print(f"\n## {name}\n", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            field = Field(asked.workspace / "out" / name, sections()[name], Path(folder))
            (ablate if asked.ablate else curve)(field, range(asked.seeds), asked.shares)


if __name__ == "__main__":
    main()
