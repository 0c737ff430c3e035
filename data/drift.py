"""samples + descriptors + the accepted version's profile → what differs between splits and versions.

Train is compared with validation and with test, and this version of the dataset with the one that was
accepted last. A difference is drift if it is both sure (false discovery rate over all tests of the
comparison) and large (effect beyond what chance gives): with many samples every difference is sure.
"""

import json
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from winnow.data import store
from winnow.data.comparing import comparison, distributions, splits, versions
from winnow.data.comparing.comparison import skipped, tested
from winnow.data.comparing.domain import Classifier
from winnow.data.folds import Vectors
from winnow.data.stage import BadInput, run

_log = logging.getLogger(__name__)
_FIXED = ("id", "label", "split", "group", "source")  # columns of the manifest that are no measures
_COMPARED = ("validation", "test")


def main(
    modality: str,
    ingest: Path,
    accepted: Path,
    out: Path,
    *,
    classifier: Classifier,
    permutations: int,
    alpha: float,
    min_effect: float,
    projections: int,
    seed: int,
) -> None:
    """Compare the splits, and this version with the accepted one.

    Args:
        modality: names the section of params.yaml, nothing more.
        ingest: manifest and descriptors.
        accepted: the report of the version that was accepted last; `{}` if none was.
        out: receives `drift.json`, `profile.json`, `metrics.json`.
        classifier: tells two splits apart by their descriptors.
        permutations: deals of the samples that each p-value is counted from.
        alpha: false discovery rate over the tests of one comparison.
        min_effect: of drift, beyond what chance gives [0–1].
        projections: directions along which descriptors are kept for the next version.
        seed: of everything drawn.

    Raises:
        BadInput: if `accepted` is no report, or permutations are too few for any test to succeed.
    """
    manifest = store.read_table(ingest / "manifest.parquet")
    measures = [name for name in manifest.select_dtypes("number").columns if name not in _FIXED]
    least = math.ceil((2 * len(measures) + projections + len(_COMPARED) + 1) / alpha)
    if permutations < least:
        raise BadInput(
            f"params.yaml: drift.permutations: {permutations} are too few for {len(measures)} measures "
            f"and alpha {alpha:g}: ask for {least} or more"
        )
    old = _accepted(accepted)
    drawn = _drawn(manifest, classifier.rows, seed)
    rows = np.unique(np.concatenate(list(drawn.values())))
    vectors = store.read_vectors(ingest / "descriptors", list(manifest["id"].iloc[rows]))
    sample = vectors[np.searchsorted(rows, drawn.pop("all"))]

    found = []
    with threadpool_limits(1):  # few and small matrices: threads would only wait for each other
        for split in _COMPARED:
            compared = splits.compare(
                manifest, split, measures, alpha=alpha, permutations=permutations, seed=seed
            )
            both = np.concatenate([drawn["train"], drawn[split]])
            splits.tell_apart(
                compared, manifest.iloc[both].reset_index(drop=True), vectors[np.searchsorted(rows, both)],
                classifier, alpha=alpha, permutations=permutations, seed=seed,
            )  # fmt: skip
            found.append(compared)
        found.append(_versions(old, manifest, measures, sample, permutations, seed))
        profile = versions.profile(manifest, measures, sample, projections, seed)
    for compared in found:
        comparison.judge(compared, alpha=alpha, min_effect=min_effect, min_auc=classifier.min_auc)
        _log.info("%s", comparison.told(compared))
    store.write_json(out / "drift.json", {"schema_version": 1, "comparisons": found})
    store.write_json(out / "profile.json", profile)
    store.write_json(out / "metrics.json", _metrics(found))


def _drawn(manifest: pd.DataFrame, most: int, seed: int) -> dict[str, np.ndarray]:
    """Draw rows of each split, and of the whole dataset."""
    random = np.random.default_rng(seed)
    pools = {name: np.flatnonzero(manifest["split"] == name) for name in store.SPLITS}
    pools["all"] = np.arange(len(manifest))
    return {
        name: np.sort(random.choice(pool, min(most, len(pool)), replace=False))
        for name, pool in pools.items()
    }


def _accepted(path: Path) -> dict[str, Any]:
    """Read the accepted report; give its profile, or why there is none to compare with."""
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise BadInput(
            f"{path} is no JSON ({error}): write {{}} into it if no version was accepted"
        ) from error
    if not isinstance(report, dict):
        raise BadInput(f"{path} is no report: write {{}} into it if no version was accepted")
    profile = report.get("profile")
    if not profile:
        return {"absent": "the accepted report has no profile" if report else "no version was accepted yet"}
    if profile.get("schema_version") != versions.SCHEMA_VERSION:
        return {"absent": "the accepted profile is of another form: accept a report of this version"}
    return dict(profile)


def _versions(
    old: dict[str, Any],
    manifest: pd.DataFrame,
    measures: list[str],
    vectors: Vectors,
    permutations: int,
    seed: int,
) -> dict[str, Any]:
    """Compare this version of the dataset with the accepted one."""
    ends = "previous", "accepted version", "this version", old.get("n", 0), len(manifest)
    if "absent" in old:
        return comparison.comparison(*ends, old["absent"])
    compared = comparison.comparison(*ends) | {"unit": "sample"}
    compared["retained"] = round(versions.retained(old["ids"], manifest["id"]), 6)
    shifts, not_compared = versions.shifts(old, manifest, measures, vectors)
    random = np.random.default_rng(seed)
    for shift in shifts:
        apart = distributions.by_sample(
            shift.a, shift.b, ordered=shift.ordered, permutations=permutations, random=random
        )
        row = tested(shift.name, shift.kind, apart, ordered=shift.ordered)
        if shift.means and shift.spreads:
            row |= comparison.numbers(shift.means, shift.spreads)
        if shift.kind == "label_shift":
            row |= comparison.names(shift.names, shift.a, shift.b)
        if shift.kind == "groups":
            has = shift.a > 0, shift.b > 0
            row |= dict(
                zip(("n_a", "n_b", "shared"), map(int, map(np.sum, (*has, has[0] & has[1]))), strict=True)
            )
        _file(compared, row)
    for row in not_compared:
        _file(compared, skipped(**row))
    compared["features"].sort(key=lambda row: (row["kind"], row["name"]))
    reason = "of the accepted version only counts are left: descriptors are compared along projections"
    compared["domain"]["reason"] = reason
    return compared


def _file(compared: dict[str, Any], row: dict[str, Any]) -> None:
    if row["kind"] in ("label_shift", "groups"):
        compared[row["kind"]] = row
    else:
        compared["features"].append(row)


def _metrics(found: list[dict[str, Any]]) -> dict[str, int | float]:
    metrics: dict[str, int | float] = {}
    for compared in found:
        values = {
            "tests": compared["n_tests"],
            "drifted": compared["n_drifted"],
            "label_shift": compared["label_shift"]["effect"],
            "domain_auc": compared["domain"]["effect"],
            "largest_effect": max((row["effect"] or 0.0 for row in compared["features"]), default=None),
        }
        metrics |= {f"{compared['name']}_{key}": value for key, value in values.items() if value is not None}
    return metrics


if __name__ == "__main__":
    run(main)
