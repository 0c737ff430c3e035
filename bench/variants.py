"""Two ways to a sparse int8 classifier, side by side: prune while it learns its task, or once for all tasks.

`python -m bench.variants WORKSPACE [--modalities speech vision text] [--seeds 2]`
    runs the stages distill, prune and quantize on the one hand, and sparsify, transfer and quantize on the
    other, with this project's params.yaml, from the encoder and the teacher that WORKSPACE holds in
    out/<modality>/pretrain and finetune; prints a Markdown table of the test split's accuracy, by true
    labels where `ingest` has any, with a 95 % interval of the difference over test samples and seeds

A seed is that of batches, variants, masks and dropout. Needs to start in the project's root.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import yaml

from winnow.compress.runtimes import OnnxRuntime, logits
from winnow.data import store
from winnow.data.batches import stack
from winnow.data.intervals import paired_difference
from winnow.data.modality import build
from winnow.ssl import model as models
from winnow.ssl.classification import predict

# Of each way, its stages with the folders that they read behind `ingest`; the last makes the ONNX file.
WAYS = {
    "direct": [
        ("distill", "curate@2", ["finetune"]),
        ("prune", "curate@2", ["finetune", "distill"]),
        ("quantize", "curate@2", ["finetune", "prune"]),
    ],
    "once for all": [
        ("sparsify", "curate@1", ["pretrain"]),
        ("transfer", "curate@2", ["finetune", "sparsify"]),
        ("quantize", "curate@2", ["finetune", "transfer"]),
    ],
}
TASKLESS = {"sparsify"}


def seeded(section: Any, seed: int) -> Any:
    """Give a section with another seed wherever it has one."""
    if isinstance(section, dict):
        return {key: seed if key == "seed" else seeded(value, seed) for key, value in section.items()}
    return section


def go(name: str, way: str, workspace: Path, root: Path) -> tuple[float, float]:
    """Run a way's stages in `root`; give the seconds of those that know the task, and of the others."""
    here, there = root / "out" / name, (workspace / "out" / name).resolve()
    here.mkdir(parents=True, exist_ok=True)
    for origin in ("ingest", "curate@1", "curate@2", "pretrain", "finetune"):
        link = here / origin
        if not link.exists():
            link.symlink_to(there / origin)
    seconds = {True: 0.0, False: 0.0}
    for stage, labels, folders in WAYS[way]:
        (here / stage).mkdir(exist_ok=True)
        paths = [f"out/{name}/{path}" for path in ("ingest", labels, *folders, stage)]
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", f"winnow.compress.{stage}", name, *paths],
            cwd=root,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            sys.exit(f"{stage} {name}: {done.stderr[-2000:]}")
        seconds[stage not in TASKLESS] += time.perf_counter() - began
    return seconds[True], seconds[False]


def compare(name: str, workspace: Path, params: Mapping[str, Any], seeds: int) -> None:
    """Print a modality's rows."""
    modality, ingest = build(params[name]["modality"]), workspace / "out" / name / "ingest"
    classes = store.read_classes(ingest)
    manifest = store.read_table(ingest / "manifest.parquet")
    truth = store.read_table(ingest / "truth.parquet").set_index("id")["label"]
    manifest["label"] = manifest["id"].map(truth).fillna(manifest["label"])
    test = manifest[(manifest["split"] == "test") & manifest["label"].notna()]
    samples = stack(modality, ingest, test, classes)
    label = samples.label.numpy()
    teacher = models.load_classifier(workspace / "out" / name / "finetune")
    taught = predict(teacher, samples.x, 256).argmax(1).numpy() == label
    print(f"| {name} | teacher | {100 * taught.mean():.1f} | | | | |", flush=True)
    for way in WAYS:
        right, size, spent = [], [], []
        for seed in range(seeds):
            with TemporaryDirectory() as folder:
                root = Path(folder)
                changed = {**params, name: seeded(params[name], seed) | {"ingest": params[name]["ingest"]}}
                (root / "params.yaml").write_text(yaml.safe_dump(changed))
                spent.append(go(name, way, workspace, root))
                file = root / "out" / name / "quantize" / "model.onnx"
                right.append(logits(OnnxRuntime(file, 1), samples.x, 256).argmax(1) == label)
                size.append(file.stat().st_size)
        scores = [100 * one.mean() for one in right]
        # A sample counts once, by the mean over seeds: those share the teacher, and err alike.
        difference, low, high = paired_difference(taught, np.mean(right, axis=0), seed=0)
        known, unknown = np.mean(spent, axis=0)
        print(
            f"| {name} | {way} | {np.mean(scores):.1f} ± {np.std(scores):.1f} "
            f"| {100 * difference:+.1f} ({100 * low:+.1f} … {100 * high:+.1f}) "
            f"| {np.mean(size) / 1000:.0f} | {known:.0f} | {unknown:.0f} |",
            flush=True,
        )


def main() -> None:
    """Compare what the command line asks for."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.variants",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("workspace", type=Path, help="with out/<modality>/{ingest,curate@1,…,finetune}")
    parser.add_argument("--modalities", nargs="+", default=["speech", "vision", "text"])
    parser.add_argument("--seeds", type=int, default=2, help="how many")
    asked = parser.parse_args()
    params = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    print("| | int8, by way of | accuracy, % | against the teacher, points | ONNX, kB | s, task | s before |")
    print("|---|---|---|---|---|---|---|")
    for name in asked.modalities:
        compare(name, asked.workspace, params, asked.seeds)


if __name__ == "__main__":
    main()
