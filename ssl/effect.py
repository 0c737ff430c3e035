"""labels of all rounds + encoder + embeddings → what cleaning bought, beside what it must be compared to.

`effect.json`:

    schema_version  1
    rounds          numbers of the rounds
    test            {samples, units, unit}: what was scored by, and what counts as one of it (group | sample)
    measures        of `probe` and of `finetune`: {measure, status: ok | skipped, reason, seeds,
                    arms: [{arm, n, dropped, relabelled, accuracies, mean, low, high}],
                    absent: [{arm, reason}],
                    gains: [{arm, against, value_points, low_points, high_points, verdict}],
                    recovery: [{arm, status: ok | skipped, reason, value, low, high}]}

Arms are `delivered`; for each round r `round@r`, and `random_drop@r`, which drops as many at random; and
`oracle`, which has the true labels. `n` are the rows learned from, `accuracies` [0–1] those of the seeds.
Intervals are of 95 %, over seeds and test samples. The verdict is `gain`, `loss` or `no measurable gain`.
Recovery is the share of the oracle's gain over `delivered` that a round has.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Int

from winnow.data import store
from winnow.data.batches import UNLABELLED, Variants, stack
from winnow.data.modality import Modality
from winnow.data.stage import BadInput, run
from winnow.ssl import arms as experiment
from winnow.ssl import gains
from winnow.ssl.arms import DELIVERED, ORACLE, RANDOM_DROP, ROUND, Plan
from winnow.ssl.classification import Classification
from winnow.ssl.train import Optimization

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Probing:
    """How labels are measured by a logistic regression on frozen embeddings.

    Attributes:
        seeds: repetitions, each with a bootstrap sample of the training rows.
        rows: in such a sample, at most.
        inverse_penalty: C of the logistic regression.
    """

    seeds: int
    rows: int
    inverse_penalty: float


@dataclass(frozen=True, kw_only=True)
class Finetuning:
    """How labels are measured by fine-tuning, a few steps from the pretrained encoder.

    Attributes:
        seeds: repetitions, each with another order, other variants and dropout.
        inverse_penalty: C of the logistic regression that the head starts as.
        steps: of each run.
        variants: what is drawn of a sample.
        batch_size: samples in a batch.
        dropout: of the trunk while training.
        label_smoothing: probability that labels give to all classes alike [0–1].
        optimization: learning rate and its schedule.
        gradient_clip: norm above which gradients are cut.
        accelerator: Lightning's word for the device.
    """

    seeds: int
    inverse_penalty: float
    steps: int
    variants: Variants
    batch_size: int
    dropout: float
    label_smoothing: float
    optimization: Optimization
    gradient_clip: float
    accelerator: str


def main(
    modality: Modality,
    ingest: Path,
    root: Path,
    embed: Path,
    pretrain: Path,
    out: Path,
    *,
    rounds: list[int],
    probe: Probing,
    finetune: Finetuning | None,
    seed: int,
    threads: int,
) -> None:
    """Measure what the labels of every round are worth, with everything else held fixed.

    All arms learn from the train split and are scored on the test split as delivered. The true labels are
    read for the oracle to learn from, and for nothing else.

    Args:
        modality: what the samples are.
        ingest: samples, manifest and truth.
        root: folder that holds `curate@r` of every round r.
        embed: embeddings of the encoder.
        pretrain: the encoder.
        out: receives `effect.json`, `metrics.json` and `accuracy.csv`, the probe's accuracies over rounds.
        rounds: numbers of the rounds, in their order.
        probe: of every arm.
        finetune: of the last round and its controls; null to leave it out.
        seed: the first; others follow it.
        threads: of torch; results depend on it in the last digits.
    """
    torch.set_num_threads(threads)
    manifest = store.read_table(ingest / "manifest.parquet")
    classes = store.read_classes(ingest)
    test = manifest[(manifest["split"] == "test") & manifest["label"].notna()]
    table, plan = _plan(manifest, ingest, root, rounds, classes)
    if test.empty or table.empty:
        raise BadInput(f"{ingest}: the effect of labels needs labelled samples to train and to test on")
    unit = gains.units(test["group"])
    wanted = _index(test["label"], classes)

    measures = []
    seeds = _seeds("probe", probe.seeds, seed)
    vectors = store.read_vectors(embed / "embeddings", [*table["id"], *test["id"]])
    correct = experiment.probe(
        plan.arms,
        vectors[: len(table)],
        vectors[len(table) :],
        wanted,
        classes=len(classes),
        inverse_penalty=probe.inverse_penalty,
        rows=probe.rows,
        seeds=seeds,
    )
    measures.append(gains.describe("probe", plan, correct, unit.number))

    if finetune is None:
        measures.append({"measure": "finetune", "status": "skipped", "reason": "params.yaml leaves it out"})
    else:
        few = plan.only(rounds[-1])
        correct = _finetune(modality, ingest, pretrain, finetune, table, test, few, classes, seed)
        measures.append(gains.describe("finetune", few, correct, unit.number))

    found = {"samples": len(test), "units": int(unit.number.max()) + 1, "unit": unit.kind}
    store.write_json(
        out / "effect.json", {"schema_version": 1, "rounds": rounds, "test": found, "measures": measures}
    )
    store.write_json(out / "metrics.json", {"test_samples": len(test), **_metrics(measures)})
    _curve(measures[0], rounds).to_csv(out / "accuracy.csv", index=False, float_format="%.6g")
    for measure in measures:
        for one in measure.get("gains", []):
            _log.info(
                "%s: %s against %s: %s, %+.1f points (%+.1f to %+.1f)",
                measure["measure"],
                one["arm"],
                one["against"],
                one["verdict"],
                one["value_points"],
                one["low_points"],
                one["high_points"],
            )


def _index(labels: pd.Series, classes: Sequence[str]) -> Int[np.ndarray, " row"]:
    index = {label: i for i, label in enumerate(classes)}
    return labels.map(index).fillna(UNLABELLED).to_numpy(int)


def _plan(
    manifest: pd.DataFrame, ingest: Path, root: Path, rounds: Sequence[int], classes: Sequence[str]
) -> tuple[pd.DataFrame, Plan]:
    """Find the rows that any arm learns from, and the arms."""
    table = manifest[manifest["split"] == "train"].reset_index(drop=True)

    def aligned(labelled: pd.DataFrame) -> Int[np.ndarray, " row"]:
        return _index(labelled.set_index("id")["label"].reindex(table["id"]), classes)

    delivered = aligned(table)
    after = {number: aligned(store.read_labels(root / f"curate@{number}", ingest)) for number in rounds}
    truth = aligned(store.read_table(ingest / "truth.parquet"))
    used = np.any([labels != UNLABELLED for labels in (delivered, *after.values())], axis=0)
    plan = experiment.plan(
        delivered[used], {number: labels[used] for number, labels in after.items()}, truth[used]
    )
    return table[used].reset_index(drop=True), plan


def _seeds(name: str, number: int, first: int) -> range:
    if number < 2:
        raise BadInput(
            f"params.yaml: effect.{name}.seeds: {number} is too few: an interval needs the spread of two"
        )
    return range(first, first + number)


def _finetune(
    modality: Modality,
    ingest: Path,
    pretrain: Path,
    settings: Finetuning,
    table: pd.DataFrame,
    test: pd.DataFrame,
    plan: Plan,
    classes: list[str],
    seed: int,
) -> Bool[np.ndarray, "arm seed sample"]:
    def make(seed: int) -> Classification:
        return Classification(
            modality,
            classes,
            pretrain,
            dropout=settings.dropout,
            label_smoothing=settings.label_smoothing,
            layer_decay=1.0,
            freeze=0.0,
            mixup=None,  # a batch holds samples that an arm has no label for
            inverse_penalty=None,  # `arms` solves the head, by each arm's labels
            optimization=settings.optimization,
            seed=seed,
        )

    seeds = _seeds("finetune", settings.seeds, seed)
    # What a run can come to see, chosen before it is decoded: all of a small dataset.
    order = np.random.default_rng(seed).permutation(len(table))
    reached = np.sort(order[: settings.steps * settings.batch_size])
    return experiment.finetune(
        plan.arms,
        make,
        modality,
        stack(modality, ingest, table.iloc[reached], classes),
        reached,
        stack(modality, ingest, test, classes),
        inverse_penalty=settings.inverse_penalty,
        variants=settings.variants,
        batch_size=settings.batch_size,
        steps=settings.steps,
        gradient_clip=settings.gradient_clip,
        accelerator=settings.accelerator,
        seeds=seeds,
    )


def _metrics(measures: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Flatten what `dvc metrics diff` should show; what was not measured has no entry."""
    metrics: dict[str, float] = {}
    for measure in measures:
        if measure["status"] != "ok":
            continue
        name = measure["measure"]
        for arm in measure["arms"]:
            metrics[f"{name}_{_flat(arm['arm'])}_accuracy"] = arm["mean"]
        for one in measure["gains"]:
            if one["against"] == DELIVERED:
                for key in ("value", "low", "high"):
                    end = "" if key == "value" else f"_{key}"
                    metrics[f"{name}_{_flat(one['arm'])}_gain_points{end}"] = one[f"{key}_points"]
        for one in measure["recovery"]:
            if one["status"] == "ok":
                metrics[f"{name}_{_flat(one['arm'])}_recovery"] = one["value"]
    return metrics


def _flat(arm: str) -> str:
    return arm.replace("@", "")


def _curve(measure: Mapping[str, Any], rounds: Sequence[int]) -> pd.DataFrame:
    """Give accuracies over rounds, of which 0 is the data as delivered; a control that is absent is empty."""
    mean = {arm["arm"]: arm["mean"] for arm in measure["arms"]}
    start = {"cleaned": mean[DELIVERED], "random_drop": mean[DELIVERED]}
    rows = [{"round": 0, **start}]
    for number in rounds:
        of_round = {"cleaned": mean[f"{ROUND}@{number}"], "random_drop": mean.get(f"{RANDOM_DROP}@{number}")}
        rows.append({"round": number, **of_round})
    return pd.DataFrame(rows).assign(delivered=mean[DELIVERED], oracle=mean.get(ORACLE))


if __name__ == "__main__":
    run(main)
