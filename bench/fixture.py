"""A large dataset as the stages before the report leave it, made in seconds: what is measured is the page.

Images are digits on coloured, noisy ground, 64 pixels wide: thumbnails of real size, which hardly
compress. Flags, groups and scores are drawn with a seed; nothing here was judged by a model.
"""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from sklearn.datasets import load_digits

from bench import summaries
from bench.summaries import CLASSES, MEASURES
from winnow.data import store
from winnow.data.vision import Vision

GROUPS, IMAGES, DIM = 400, 512, 32
ROUNDS = {1: 0.09, 2: 0.11}  # share of labels that a round suspects
LIMITS: dict[str, tuple[float | None, float | None]] = {
    "test_split": (0, 0),
    "chapters": (0, 0),
    "rejects": (0.0, 0.05),
    "checks_failed": (0, 0),
    "checks_skipped": (0, None),
    "judge": (5.0, 0.0),
    "label_noise": (0.05, 0.3),
    "annotator_quality": (0.7, None),
    "exact_across_splits": (0, None),
    "near_across_splits": (0, None),
    "groups_across_splits": (0, None),
    "conflicting_labels": (0, None),
    "drifted_features": (0.0, 0.5),
    "domain_auc": (0.6, 0.9),
    "slices": (0, None),
    "class_retention": (0.8, 0.5),
    "group_retention": (0.7, 0.3),
    "effect": (None, 0.0),
    "effect_over_random": (None, 0.0),
    "new_issues": (0, None),
}


def write(root: Path, samples: int) -> tuple[Vision, Path, Path]:
    """Write all that the report reads; give the modality, the root folder, and the accepted report."""
    home, random = root / "large", np.random.default_rng(0)
    accepted = root / "accepted.json"
    if not (home / "done").exists():  # a large one is worth keeping from run to run
        manifest = ingest(home / "ingest", samples, random)
        for number, rate in ROUNDS.items():
            judge(home, number, manifest, rate, np.random.default_rng(number))
        embed(home / "embed" / "embeddings", manifest, random)
        for number, accuracy in enumerate((0.89, 0.91, 0.93)):
            write_json(home / f"probe@{number}" / "metrics.json", summaries.probe(accuracy))
        write_json(home / "drift" / "drift.json", summaries.drift())
        write_json(home / "drift" / "profile.json", {"n": samples})
        write_json(home / "effect" / "effect.json", summaries.effect(random))
        (home / "done").touch()
    write_json(accepted, {})
    return Vision(size=64, patch=8, channels=3), home, accepted


def ingest(out: Path, samples: int, random: np.random.Generator) -> pd.DataFrame:
    """Write samples, manifest, truth and rejects, with every tenth label drawn anew."""
    made = images(random)
    ids = [f"{random.integers(2**63):016x}{i:04x}"[:20] for i in range(samples)]
    digits = load_digits().target[:IMAGES]
    chosen = random.integers(IMAGES, size=samples)
    with store.sample_writer(out) as shards:
        for id_, i in zip(ids, chosen, strict=True):
            shards.add(id_, made[i])
    truth = pd.Series(digits[chosen]).astype(str)
    wrong = random.random(samples) < 0.1
    given = truth.where(~wrong, pd.Series(random.choice(CLASSES, samples)))
    manifest = pd.DataFrame({"id": ids, "label": given})
    manifest["split"] = random.choice(["train", "validation", "test"], samples, p=[0.7, 0.15, 0.15])
    manifest["group"] = [f"writer {i:03}" for i in random.integers(GROUPS, size=samples)]
    manifest["source"] = [f"images/{label}/{i:06}.png" for i, label in enumerate(given)]
    for measure in MEASURES:
        manifest[measure] = random.beta(5, 3, samples)
    store.write_table(out / "manifest.parquet", manifest)
    store.write_table(out / "truth.parquet", pd.DataFrame({"id": ids, "label": truth}))
    rejected = pd.DataFrame({"source": [f"images/broken/{i:04}.png" for i in range(samples // 200)]})
    rejected["reason"] = random.choice(
        ["not an image that Pillow can read", "the file is empty (0 bytes)"], len(rejected)
    )
    store.write_table(out / "rejects.parquet", rejected)
    return manifest


def images(random: np.random.Generator) -> list[bytes]:
    """Encode digits on coloured ground, with noise as of a camera."""
    made = []
    for pixels in load_digits().images[:IMAGES]:
        shape = np.asarray(
            Image.fromarray((pixels * 15).astype(np.uint8)).resize((64, 64), Image.Resampling.BICUBIC)
        )
        ink, ground = random.integers(0, 256, (2, 3))
        picture = ground + (ink - ground) * (shape[..., None] / 255) + random.normal(0, 5, (64, 64, 3))
        file = io.BytesIO()
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(file, "PNG")
        made.append(file.getvalue())
    return made


def judge(home: Path, number: int, manifest: pd.DataFrame, rate: float, random: np.random.Generator) -> None:
    """Write an audit and a curation that drops what is flagged and free."""
    n = len(manifest)
    truth = store.read_table(home / "ingest" / "truth.parquet")["label"]
    wrong = (truth != manifest["label"]).to_numpy()
    flagged = np.where(wrong, random.random(n) < 0.9, random.random(n) < rate - 0.08)
    issues = pd.DataFrame({"id": manifest["id"], "is_label_issue": flagged})
    issues["label_quality"] = np.where(flagged, 0.1, 0.9) * random.random(n)
    issues["suggested_label"] = np.where(wrong, truth, random.choice(CLASSES, n))
    issues["label_detectors"] = np.where(flagged, random.integers(1, 4, n), 0)
    issues["outlier_score"] = random.random(n)
    issues["is_outlier"] = random.random(n) < 0.01
    for kind, share in (("near", 0.01), ("exact", 0.005)):
        member = random.random(n) < share
        issues[f"{kind}_duplicate_set"] = np.where(
            member, random.integers(0, max(int(n * share / 3), 1), n), -1
        )
    checks = {
        name: (measure, sign, bound)
        for name, measure, sign, bound in (
            ("dark", "brightness_p99", "<", 0.2),
            ("light", "brightness_p05", ">", 0.97),
            ("flat", "entropy_bits", "<", 0.2),
            ("blurred", "sharpness", "<", 0.2),
            ("odd_aspect_ratio", "aspect_ratio", "<", 0.2),
        )
    }
    for name, (measure, sign, bound) in checks.items():
        issues[f"is_{name}"] = manifest[measure] < bound if sign == "<" else manifest[measure] > bound
    audit, curate = home / f"audit@{number}", home / f"curate@{number}"
    audit.mkdir(parents=True)
    curate.mkdir(parents=True)
    store.write_table(audit / "issues.parquet", issues)
    rows = [
        summaries.check(name, int(issues[f"is_{name}"].sum()), n, f"{m} {s} {b}")
        for name, (m, s, b) in checks.items()
    ]
    write_json(audit / "summary.json", summaries.summary(manifest, issues, rows))
    decide(curate, manifest, issues)


def decide(out: Path, manifest: pd.DataFrame, issues: pd.DataFrame) -> None:
    """Drop what two detectors flag, and leave the rest of the suspicions to people."""
    decisions = manifest[["id", "label"]].copy()
    decisions["action"], decisions["reason"], decisions["decided_by"] = "keep", "", "none"
    drop = issues["is_label_issue"] & (issues["label_detectors"] > 1) & (manifest["split"] != "test")
    decisions.loc[drop, ["action", "reason", "decided_by"]] = ["drop", "label issue", "policy"]
    store.write_table(out / "decisions.parquet", decisions)
    changes = ({"id": id_, "action": "drop", "decided_by": "policy"} for id_ in decisions.loc[drop, "id"])
    (out / "actions.jsonl").write_text("".join(json.dumps(change) + "\n" for change in changes))
    waiting = issues[issues["is_label_issue"] & ~drop].sort_values("label_quality")["id"].head(2000)
    (out / "queue.csv").write_text("\n".join(["id", *waiting]) + "\n")


def embed(out: Path, manifest: pd.DataFrame, random: np.random.Generator) -> None:
    """Write vectors that lie about a centre for each class."""
    truth = store.read_table(out.parent.parent / "ingest" / "truth.parquet")["label"].astype(int).to_numpy()
    centres = random.normal(0, 2.2, (len(CLASSES), DIM))
    with store.vector_writer(out) as shards:
        for id_, label in zip(manifest["id"], truth, strict=True):
            shards.add(id_, (centres[label] + random.normal(0, 1, DIM)).astype(np.float32))


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON into a folder that may have to be made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    store.write_json(path, content)
