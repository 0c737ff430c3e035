"""Is one trunk for all modalities as good as one for each? Prints a Markdown table.

`python -m bench.joint WORKSPACE [--steps 400] [--seeds 3] [--rows 4000] [--threads 1]`
    trains one joint network and one for each modality, as the stages `pretrain_joint` and `pretrain` do with
    this project's params.yaml, but for the steps: as many of each modality, of as many samples. Then a
    linear probe on frozen embeddings says what each learned, beside the same networks before training

WORKSPACE is one in which `dvc repro` has gone to the first round: params.yaml, from which modalities are
taken, and `ingest` and `curate@1` of each in out. Probes learn from and are scored by true labels, where
`ingest` has any. Needs to start in the project's root.
"""

import argparse
import copy
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml
from threadpoolctl import threadpool_limits

from winnow.data import folds, store
from winnow.data.intervals import paired_difference
from winnow.data.modality import Modality, build
from winnow.ssl import model as models
from winnow.ssl import pretrain, pretrain_joint
from winnow.ssl.trunk import Encoder

NETWORKS = ("untrained", "single", "joint")
BATCH = 256  # samples that are embedded at once


class Task(NamedTuple):
    """What a probe has to learn.

    Attributes:
        modality: what the samples are.
        ingest: folder of the samples.
        train: ids and class indices.
        test: the same.
        classes: number of classes.
        inverse_penalty: C of the logistic regression.
    """

    modality: Modality
    ingest: Path
    train: tuple[list[str], np.ndarray]
    test: tuple[list[str], np.ndarray]
    classes: int
    inverse_penalty: float


def task(modality: Modality, ingest: Path, rows: int, inverse_penalty: float) -> Task:
    """Draw the rows of a probe: `rows` of each split at most, the same for every network."""
    table = store.read_table(ingest / "manifest.parquet", ["id", "label", "split"]).set_index("id")
    truth = store.read_table(ingest / "truth.parquet").set_index("id")["label"]
    table["label"] = truth.reindex(table.index).fillna(table["label"])
    table = table[table["label"].notna()]
    table["index"] = table["label"].astype("category").cat.codes
    splits = []
    for name in ("train", "test"):
        part = table[table["split"] == name]
        part = part.sample(min(rows, len(part)), random_state=0)
        splits.append((part.index.tolist(), part["index"].to_numpy(int)))
    return Task(modality, ingest, splits[0], splits[1], table["index"].nunique(), inverse_penalty)


@torch.inference_mode()
def embedded(encoder: Encoder, asked: Task, ids: list[str]) -> np.ndarray:
    """Embed samples, in the given order."""
    payloads = dict(store.payloads(asked.ingest, ids))
    parts = [ids[start : start + BATCH] for start in range(0, len(ids), BATCH)]
    vectors = [encoder.embed(torch.stack([asked.modality.load(payloads[i]) for i in part])) for part in parts]
    return torch.cat(vectors).numpy()


def correct(encoder: Encoder, asked: Task) -> np.ndarray:
    """Say which test samples a probe on this encoder gets right."""
    learned, scored = (embedded(encoder, asked, ids) for ids, _ in (asked.train, asked.test))
    with threadpool_limits(1):
        probe = folds.linear(learned, asked.inverse_penalty)
        told = folds.fit_predict(probe, learned, asked.train[1], scored, asked.classes)
    return told.argmax(1) == asked.test[1]


def scheduled(trainer: dict[str, Any], steps: int) -> dict[str, Any]:
    """Change a run's length, with what is counted in its steps."""
    every = {"val_check_interval": steps, "log_every_n_steps": max(steps // 10, 1)}
    return {**trainer, "max_steps": steps, **every}


def train(params: dict[str, Any], root: Path, out: Path, steps: int, seed: int, threads: int) -> list[float]:
    """Train one network for each modality, into `single`, and one for all, into `joint`.

    Returns:
        How many seconds each way took.
    """
    began = time.perf_counter()
    for name in params["modalities"]:
        section = copy.deepcopy(params[name]["pretrain"]) | {"threads": threads}
        section["data"]["seed"] = seed
        section["trainer"] = scheduled(section["trainer"], steps)
        folder = out / "single" / name
        folder.mkdir(parents=True)
        where = (root / name / "ingest", root / name / "curate@1", folder)
        pretrain.main(build(params[name]["modality"]), *where, **section, logs=out / "logs" / name)
    between = time.perf_counter()
    section = copy.deepcopy(params["pretrain_joint"]) | {"threads": threads}
    section["data"]["seed"] = seed
    section["trainer"] = scheduled(section["trainer"], steps * len(params["modalities"]))
    section["turns"] = dict.fromkeys(params["modalities"], 1)
    (out / "joint").mkdir()
    pretrain_joint.main(root, out / "joint", **section, sections=params, logs=out / "logs" / "joint")
    return [between - began, time.perf_counter() - between]


def compare(params: dict[str, Any], root: Path, steps: int, seeds: int, rows: int, threads: int) -> None:
    """Train and probe under every seed, and print what came out."""
    tasks = {}
    for name in params["modalities"]:
        penalty = params[name]["probe"]["inverse_penalty"]
        tasks[name] = task(build(params[name]["modality"]), root / name / "ingest", rows, penalty)
    right: dict[tuple[str, str], list[np.ndarray]] = {}
    took = []
    for seed in range(seeds):
        with TemporaryDirectory() as folder:
            out = Path(folder)
            took.append(train(params, root, out, steps, seed, threads))
            for name, asked in tasks.items():
                single = models.load_encoder(out / "single" / name)
                torch.manual_seed(seed)
                networks = {
                    "untrained": Encoder(asked.modality, single.shape).eval(),
                    "single": single,
                    "joint": models.load_encoder(out / "joint" / name),
                }
                for network in NETWORKS:
                    right.setdefault((name, network), []).append(correct(networks[network], asked))
    alone, together = np.mean(took, 0)
    print(f"\n{steps} steps of each modality, {seeds} seed(s); seconds a seed: {alone:.0f}, {together:.0f}.")
    print("Accuracy of a linear probe, %: mean over seeds (lowest to highest). Differences of the means, in")
    print("points, with a 95 % interval over test samples.\n")
    print("| | test samples | untrained | single | joint | joint − single | joint − untrained |")
    print("|---|---|---|---|---|---|---|")
    for name, asked in tasks.items():
        means = {network: np.mean(right[name, network], 0) for network in NETWORKS}
        cells = [name, str(len(asked.test[0])), *(spread(right[name, network]) for network in NETWORKS)]
        cells += [gain(means["single"], means["joint"]), gain(means["untrained"], means["joint"])]
        print(f"| {' | '.join(cells)} |")


def spread(right: list[np.ndarray]) -> str:
    """Write an accuracy and its range over seeds."""
    shares = [100 * float(one.mean()) for one in right]
    return f"{np.mean(shares):.1f} ({min(shares):.1f}–{max(shares):.1f})"


def gain(first: np.ndarray, second: np.ndarray) -> str:
    """Write a difference, and its interval over test samples."""
    points, low, high = (100 * value for value in paired_difference(first, second, seed=0))
    return f"{points:+.1f} ({low:+.1f} … {high:+.1f})"


def main(words: list[str]) -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.joint",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("workspace", type=Path)
    parser.add_argument("--steps", type=int, default=400, help="of each modality")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=4000, help="of each split that a probe sees, at most")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    chosen = parser.parse_args(words)
    params = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    given = yaml.safe_load((chosen.workspace / "params.yaml").read_text(encoding="utf-8"))
    for name in params["modalities"]:
        params[name]["modality"] = given[name]["modality"]
    torch.set_num_threads(chosen.threads)
    compare(params, chosen.workspace / "out", chosen.steps, chosen.seeds, chosen.rows, chosen.threads)


if __name__ == "__main__":
    main(sys.argv[1:])
