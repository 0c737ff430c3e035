"""How many planted label errors the audit finds: cleanlab's Datalab on descriptors, round 1, round 2.

`python -m bench.data detection WORKSPACE` reads what `make real` left in WORKSPACE/out (descriptors,
embeddings of the encoder pretrained there, true labels), plants errors of several kinds into the true labels
of all samples, and prints a Markdown table: precision, recall and F1 of the flags, average precision of the
ranking, mean over seeds and its spread.
"""

import argparse
import contextlib
import io
import itertools
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse
from rich.console import Console
from rich.progress import track
from sklearn.decomposition import TruncatedSVD
from sklearn.metrics import average_precision_score, precision_recall_fscore_support
from threadpoolctl import threadpool_limits

from winnow.data import neighbours, store
from winnow.data.deciding import policy
from winnow.data.judging import issues
from winnow.data.judging.judge import Judge, judge_labels
from winnow.data.judging.opinions import Evidence

_EXACT = 30_000  # samples up to which all pairs are compared
_COMPONENTS = 300  # of words, for Datalab
JUDGE = Judge(folds=5, inverse_penalty=3.0, neighbours=30)


class Dataset(NamedTuple):
    """A real dataset, with what rounds 1 and 2 judge it by.

    Attributes:
        name: of the modality.
        manifest: `id, label, split, group`, true labels, all in the train split.
        evidence: of descriptors and of embeddings.
        features: descriptors as Datalab takes them.
    """

    name: str
    manifest: pd.DataFrame
    evidence: dict[str, Evidence]
    features: np.ndarray


def load(workspace: Path, name: str) -> Dataset:
    """Read a dataset that the pipeline has been through."""
    root = workspace / "out" / name
    manifest = store.read_table(root / "ingest" / "manifest.parquet", ["id", "label", "split", "group"])
    truth = store.read_table(root / "ingest" / "truth.parquet")
    manifest["label"] = truth["label"]
    manifest["split"] = "train"
    manifest = manifest[manifest["label"].notna()].reset_index(drop=True)
    evidence = {}
    for kind, folder in (("embeddings", root / "embed"), ("descriptors", root / "ingest")):
        vectors = store.read_vectors(folder / kind, manifest["id"])
        graph = neighbours.graph(issues.comparable(vectors), k=JUDGE.neighbours, exact_up_to=_EXACT, seed=0)
        evidence[kind] = Evidence(vectors, graph)
    return Dataset(name, manifest, evidence, dense(evidence["descriptors"].vectors))


def dense(vectors: np.ndarray | scipy.sparse.csr_array) -> np.ndarray:
    """Give what Datalab can hold: words by the thousand are told in 300 components."""
    if isinstance(vectors, np.ndarray):
        return vectors
    return TruncatedSVD(_COMPONENTS, random_state=0).fit_transform(vectors)


def uniform(rate: float) -> Callable[[pd.DataFrame, np.random.Generator], pd.Series]:
    """Plant any other label."""

    def plant(manifest: pd.DataFrame, random: np.random.Generator) -> pd.Series:
        codes, classes = pd.factorize(manifest["label"], sort=True)
        rows = random.choice(len(codes), round(rate * len(codes)), replace=False)
        codes[rows] = (codes[rows] + random.integers(1, len(classes), len(rows))) % len(classes)
        return pd.Series(classes[codes], dtype=object)

    return plant


def pair(rate: float) -> Callable[[pd.DataFrame, np.random.Generator], pd.Series]:
    """Plant the label of the next class."""

    def plant(manifest: pd.DataFrame, random: np.random.Generator) -> pd.Series:
        codes, classes = pd.factorize(manifest["label"], sort=True)
        rows = random.choice(len(codes), round(rate * len(codes)), replace=False)
        codes[rows] = (codes[rows] + 1) % len(classes)
        return pd.Series(classes[codes], dtype=object)

    return plant


def systematic(cells: int, rate: float) -> Callable[[pd.DataFrame, np.random.Generator], pd.Series]:
    """Plant one label for all that some speakers say of one digit; then others at random."""

    def plant(manifest: pd.DataFrame, random: np.random.Generator) -> pd.Series:
        codes, classes = pd.factorize(manifest["label"], sort=True)
        group = manifest["group"].to_numpy()
        for speaker in random.choice(np.unique(group), cells, replace=False):
            said = random.integers(len(classes))
            written = (said + random.integers(1, len(classes))) % len(classes)
            codes[(group == speaker) & (codes == said)] = written
        planted = manifest.assign(label=pd.Series(classes[codes], dtype=object))
        return uniform(rate)(planted, random) if rate else planted["label"]

    return plant


KINDS = {
    "uniform 10 %": uniform(0.1),
    "uniform 20 %": uniform(0.2),
    "uniform 40 %": uniform(0.4),
    "pair 20 %": pair(0.2),
}
GROUPED_KINDS = {"systematic": systematic(3, 0.0), "systematic + uniform 10 %": systematic(3, 0.1)}


def datalab(dataset: Dataset, labels: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Ask Datalab, as it comes, about labels by descriptors: suspicion, and flags."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from cleanlab import Datalab

        with contextlib.redirect_stdout(io.StringIO()):
            lab = Datalab({"label": labels.tolist()}, label_name="label", verbosity=0)
            # One process: forked ones would each hold the features.
            arguments = {"clean_learning_kwargs": {"find_label_issues_kwargs": {"n_jobs": 1}}}
            lab.find_issues(features=dataset.features, issue_types={"label": arguments})
    found = lab.get_issues("label")
    return -found["label_score"].to_numpy(), found["is_label_issue"].to_numpy()


def rounds(dataset: Dataset, labels: pd.Series, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Judge twice, as the pipeline does: suspicion and flags of each round."""
    manifest = dataset.manifest.assign(label=labels)
    alone = np.arange(len(manifest))
    trusted = manifest["label"].astype(object)
    for names in (["descriptors"], ["embeddings", "descriptors"]):
        evidence = {name: dataset.evidence[name] for name in names}
        table = judge_labels(manifest, evidence, trusted, alone, JUDGE, _EXACT, seed).table
        yield 1 - table["label_quality"].to_numpy(), table["is_label_issue"].to_numpy()
        # What is not learned from after the round: where independent detectors agree.
        voices = policy.voices(manifest, table.assign(consensus_label=None)).sum(axis=1)
        dropped = table["is_label_issue"] & (voices >= 2)
        trusted = manifest["label"].where(~dropped, None)


def measure(dataset: Dataset, kind: str, seed: int) -> list[dict[str, object]]:
    """Plant one kind of errors, and score the three detectors."""
    plant = (KINDS | GROUPED_KINDS)[kind]
    labels = plant(dataset.manifest, np.random.default_rng(seed))
    wrong = (labels != dataset.manifest["label"]).to_numpy()
    judged = itertools.chain([datalab(dataset, labels)], rounds(dataset, labels, seed))
    rows: list[dict[str, object]] = []
    for by, (suspicion, flags) in zip(("Datalab", "round 1", "round 2"), judged, strict=True):
        precision, recall, f1, _ = precision_recall_fscore_support(
            wrong, flags, average="binary", zero_division=0
        )
        found = {"dataset": dataset.name, "errors": kind, "by": by, "seed": seed, "P": precision, "R": recall}
        rows.append(found | {"F1": f1, "AP": average_precision_score(wrong, suspicion)})
    return rows


def main(argv: list[str]) -> None:
    """Print the table, dataset by dataset."""
    parser = argparse.ArgumentParser(prog="python -m bench.data detection", description=__doc__)
    parser.add_argument("workspace", type=Path, help="where `make real` has run: build/real")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--modalities", nargs="+", default=["speech", "vision", "text"])
    parser.add_argument(
        "--errors", nargs="+", default=None, help=", ".join(KINDS | GROUPED_KINDS).replace("%", "%%")
    )
    chosen = parser.parse_args(argv)
    print("| dataset | errors | by | P | R | F1 | AP |\n|---|---|---|---|---|---|---|", flush=True)
    with threadpool_limits(1):
        for name in chosen.modalities:
            dataset = load(chosen.workspace, name)
            kinds = KINDS | (GROUPED_KINDS if dataset.manifest["group"].notna().any() else {})
            runs = [(kind, seed) for kind in chosen.errors or kinds for seed in range(chosen.seeds)]
            shown = Console(stderr=True)
            label = f"{name}, {len(dataset.manifest):,} samples"
            rows = [
                row
                for kind, seed in track(runs, description=label, console=shown)
                for row in measure(dataset, kind, seed)
            ]
            _print(pd.DataFrame(rows))


def _print(rows: pd.DataFrame) -> None:
    table = rows.groupby(["dataset", "errors", "by"], sort=False)[["P", "R", "F1", "AP"]]
    mean, spread = table.mean(), table.std(ddof=0)
    for key, row in mean.iterrows():
        cells = (f"{row[name]:.3f} ± {spread.loc[key, name]:.3f}" for name in ("P", "R", "F1", "AP"))
        print("|", " | ".join([*key, *cells]), "|", flush=True)
