"""What of the damage of wrong labels cleaning undoes: (cleaned − delivered) / (oracle − delivered).

`python -m bench.data recovery WORKSPACE` reads what `make real` left in WORKSPACE/out, plants errors into the
true labels of train and validation, runs the stages `audit` and `curate` on them, two rounds, and scores a
logistic regression on descriptors that learns from the labels, on the test split with its true labels:
as delivered, cleaned by policy, cleaned by policy with a tenth of the labels reviewed in the order of the
queue, after a random drop of as many as policy dropped, and with the true labels. Means over seeds.
"""

import argparse
import csv
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from rich.progress import track
from threadpoolctl import threadpool_limits

from bench import detection
from winnow.data import audit, curate, folds, store
from winnow.data.audit import Check
from winnow.data.deciding import reviews
from winnow.data.deciding.policy import Caps, LabelPolicy
from winnow.data.deciding.review_queue import Queue
from winnow.data.judging.judge import Judge
from winnow.data.judging.slices import Slicing

KINDS = {
    "uniform 20 %": detection.uniform(0.2),
    "uniform 40 %": detection.uniform(0.4),
    "pair 20 %": detection.pair(0.2),
    "pair 40 %": detection.pair(0.4),
}
BUDGET = 0.1  # of the labels, that people review
_PENALTY = 3.0


class Desk:
    """A dataset with planted errors, on which the stages run.

    Args:
        root: `out/<modality>` of a workspace.
        section: the modality's numbers.
        folder: an empty folder for what is written.
        kind: of errors.
        seed: of errors, folds and random drops.
    """

    def __init__(self, root: Path, section: dict[str, Any], folder: Path, kind: str, seed: int) -> None:
        self.root, self.section, self.folder, self.seed = root, section, folder, seed
        self.ingest = folder / "ingest"
        self.ingest.mkdir()
        for part in ("kind.json", "samples", "descriptors", "fingerprints", "annotations.parquet"):
            (self.ingest / part).symlink_to((root / "ingest" / part).resolve())
        self.manifest = store.read_table(root / "ingest" / "manifest.parquet")
        self.true = store.read_table(root / "ingest" / "truth.parquet")["label"]
        self.manifest["label"] = self.true
        self.free = (self.manifest["split"] != "test") & self.true.notna()
        planted = KINDS[kind](self.manifest[self.free].reset_index(drop=True), np.random.default_rng(seed))
        self.manifest.loc[self.free, "label"] = planted.to_numpy()
        store.write_table(self.ingest / "manifest.parquet", self.manifest)
        self.reviews = folder / "reviews.csv"
        self.reviews.write_text(",".join(reviews.COLUMNS) + "\n")
        self.vectors = store.read_vectors(root / "ingest" / "descriptors", self.manifest["id"])

    def clean(self, number: int, labels: Path, policy: Mapping[str, Any]) -> pd.DataFrame:
        """Run a round; give its decisions."""
        audited, decided = self.folder / f"audit@{number}", self.folder / f"curate@{number}"
        for out in (audited, decided):
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir()
        own = self.section["audit"]
        vectors = self.ingest / "descriptors" if number == 1 else self.root / "embed" / "embeddings"
        audit.main(
            self.root.name, self.ingest, labels, vectors, audited, judge=Judge(**own["judge"]),
            near_fraction=own["near_fraction"], exact_neighbours_up_to=own["exact_neighbours_up_to"],
            min_class_share=own["min_class_share"], slicing=Slicing(**own["slicing"]), seed=self.seed,
            engine="local", workers=1,
            checks={name: Check(**check) for name, check in own["checks"].items()},
        )  # fmt: skip
        asked = round(BUDGET / 2 * self.free.sum())
        own = self.section["curate"]
        curate.main(
            self.root.name, self.ingest, audited, self.reviews, decided,
            labels=LabelPolicy(**(own["labels"] | policy)), caps=Caps(**own["caps"]),
            queue=Queue(suspects=asked, blind=0, max_class_share=1.0, hints=False),
            drop_exact_duplicates=False, drop_near_duplicates=False, drop_outliers=False, drop_checks=[],
            seed=self.seed,
        )  # fmt: skip
        return store.read_table(decided / "decisions.parquet")

    def review(self, number: int) -> None:
        """Answer a round's queue with the true labels."""
        true = dict(zip(self.manifest["id"], self.true, strict=True))
        given = dict(zip(self.manifest["id"], self.manifest["label"], strict=True))
        asked = pd.read_csv(self.folder / f"curate@{number}" / "queue.csv", dtype=str)["id"]
        with self.reviews.open("a", newline="") as file:
            for id_ in asked:
                action = "keep" if true[id_] == given[id_] else "relabel"
                csv.writer(file).writerow([id_, action, "" if action == "keep" else true[id_], "r", "", ""])

    def accuracy(self, labels: pd.Series, dropped: np.ndarray | pd.Series) -> float:
        """Score a model that learns from labels."""
        classes = sorted(self.true.dropna().unique())
        learned = np.flatnonzero(self.free & ~np.asarray(dropped))
        asked = np.flatnonzero((self.manifest["split"] == "test") & self.true.notna())
        model = folds.linear(self.vectors, _PENALTY)
        index = np.searchsorted(classes, labels.iloc[learned].to_numpy(str))
        guess = folds.fit_predict(model, self.vectors[learned], index, self.vectors[asked], len(classes))
        return float((np.array(classes)[guess.argmax(1)] == self.true.iloc[asked].to_numpy(str)).mean())


def measure(root: Path, section: dict[str, Any], kind: str, seed: int, action: str) -> dict[str, float]:
    """Measure one dataset, kind of errors and seed."""
    with tempfile.TemporaryDirectory() as name:
        desk = Desk(root, section, Path(name), kind, seed)
        none = np.zeros(len(desk.manifest), bool)
        found = {
            "delivered": desk.accuracy(desk.manifest["label"], none),
            "oracle": desk.accuracy(desk.true, none),
        }
        for by in ("policy", "policy and reviews"):
            desk.clean(1, desk.ingest, {"action": action})
            if by == "policy and reviews":
                desk.review(1)
                desk.clean(1, desk.ingest, {"action": action})
            decided = desk.clean(2, desk.folder / "curate@1", {"action": action})
            if by == "policy and reviews":
                desk.review(2)
                decided = desk.clean(2, desk.folder / "curate@1", {"action": action})
            found[by] = desk.accuracy(decided["label"], decided["action"] == "drop")
            if by == "policy":
                number = int((decided["action"] == "drop").sum())
                chosen = np.random.default_rng(seed).choice(np.flatnonzero(desk.free), number, replace=False)
                random = none.copy()
                random[chosen] = True
                found["random drop"] = desk.accuracy(desk.manifest["label"], random)
    return found


def main(argv: list[str]) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.data recovery", description=__doc__)
    parser.add_argument("workspace", type=Path, help="where `make real` has run: build/real")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--modalities", nargs="+", default=["speech", "vision", "text"])
    parser.add_argument("--errors", nargs="+", default=list(KINDS))
    parser.add_argument("--action", default="hybrid", choices=["drop", "relabel", "hybrid"])
    chosen = parser.parse_args(argv)
    numbers = yaml.safe_load((chosen.workspace / "params.yaml").read_text(encoding="utf-8"))
    rows = []
    with threadpool_limits(1):
        runs = [
            (name, kind, seed)
            for name in chosen.modalities
            for kind in chosen.errors
            for seed in range(chosen.seeds)
        ]
        for name, kind, seed in track(runs):
            found = measure(chosen.workspace / "out" / name, numbers[name], kind, seed, chosen.action)
            rows.append({"dataset": name, "errors": kind, **found})
    mean = pd.DataFrame(rows).groupby(["dataset", "errors"], sort=False).mean()
    arms = ["delivered", "random drop", "policy", "policy and reviews", "oracle"]
    print("\n| dataset | errors |", " | ".join(arms), "| recovery | with reviews |\n|" + "---|" * 9)
    for key, row in mean.iterrows():
        damage = row["oracle"] - row["delivered"]
        shares = ((row[arm] - row["delivered"]) / damage for arm in ("policy", "policy and reviews"))
        cells = [*(f"{row[arm]:.3f}" for arm in arms), *(f"{share:.2f}" for share in shares)]
        print("|", " | ".join([*key, *cells]), "|")
