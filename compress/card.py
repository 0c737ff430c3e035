"""histories, metrics and sizes of all models → model report."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from winnow.compress import costs, literature
from winnow.data import store
from winnow.data.intervals import verdict
from winnow.data.pages import claims, layers, page, probes
from winnow.data.stage import run

MODELS = ("teacher", "student", "sparse", "int8")
PRETRAIN = ("loss", "sample_share", "embedding_std", "effective_rank", "target_std")
PRUNE = ("sparsity", "loss", "val/accuracy")

_log = logging.getLogger(__name__)
_BATCHES = ("batch_1", "batch_32")
_POINTS = 240  # of a curve: as many as can be told apart on a page
# Of the int8 model in place of a float one: what a ratio is called, and what it counts.
_RATIOS = {
    "counted": (
        "as counted in papers",
        "the matrices of the trunk alone: kept weights of 8 bits, against all of 32; no index, scale, bias",
    ),
    "zipped": (
        "as zipped in papers",
        "the trunk: weights, zeros, scales, biases and norms; the int8 side under gzip",
    ),
    "packed": ("packed encoder", "the same in the bundle, with indices and header, if all had fixed widths"),
    "compressed": ("compressed encoder", "the same in the bundle as it is: coded by how often values occur"),
    "whole_file": (
        "whole file",
        "the bundle: also embeddings, frontend, head, classes, how samples are read, model card",
    ),
    "whole_file_zstd": ("whole file, both compressed", "the same, with Zstandard on the float file, too"),
    "onnx_file": ("ONNX file", "weights and zeros, each of a byte, and the graph"),
    "onnx_file_zstd": ("ONNX file, both compressed", "the same with Zstandard on both sides"),
}
_WAYS = {
    "int8": "trained in int8, as shipped",
    "posttraining_static": "post-training, static: ranges of activations from training samples",
    "posttraining_dynamic": "post-training, dynamic: ranges from each batch by itself",
}
_COLUMNS = {
    "onnx": "ONNX",
    "onnx_zstd": "each part under Zstandard",
    "packed": "packed, fixed widths",
    "bundle": "bundle",
}


def main(modality: str, root: Path, encoder: Path, out: Path, *, rounds: list[int]) -> None:
    """Report what became of the encoder: how good, how small, how fast, and how it got there.

    Args:
        modality: names the section of params.yaml; what it is stands in `kind.json`.
        root: folder that holds the stages' folders, from `ingest` to `evaluate`, and `probe@r`.
        encoder: folder that pretraining left, of the encoder that they used.
        out: folder for `card.html` and `card.json`.
        rounds: numbers of the rounds that were probed, besides 0.
    """
    card = page.rounded(gather(root, encoder, rounds))
    store.write_json(out / "card.json", card)
    (out / "card.html").write_text(render(card), encoding="utf-8")
    _log.info("the bundle is %.1f times smaller than the teacher", card["bundle"]["ratio"])


def gather(root: Path, encoder: Path, rounds: Sequence[int]) -> dict[str, Any]:
    """Collect all that the report says, as JSON."""
    evaluated = root / "evaluate"
    metrics = store.read_json(evaluated / "metrics.json")
    ledger = store.read_json(evaluated / "ledger.json")
    latency = store.read_json(evaluated / "latency.json")
    training = pd.read_csv(evaluated / "training.csv")
    pruned = training[training["model"] == "sparse"]
    pretraining = pd.read_csv(encoder / "history.csv")
    matrices = pd.read_csv(evaluated / "layers.csv")
    probed = probes.read(root, rounds)
    return {
        "schema_version": 1,
        "dataset": root.name,
        "modality": store.read_kind(root / "ingest").name,
        "test_samples": metrics.get("test_samples"),
        "sparsity": metrics.get("sparsity"),
        "models": [_model(name, metrics, latency.get(name, {})) for name in MODELS],
        "engine": _engine(latency.get("int8_engine", {})),
        "bundle": {
            "size_bytes": metrics["bundle_size_bytes"],
            "ratio": metrics["teacher_size_bytes"] / metrics["bundle_size_bytes"],
        },
        "int8_ways": [
            {
                "name": name,
                "accuracy": claims.measured(metrics, f"{key}_accuracy"),
                "difference": claims.measured(metrics, f"{key}_minus_teacher_points"),
            }
            for key, name in _WAYS.items()
        ],
        "parts": sorted(
            ({"name": name, **row} for name, row in ledger["parts"].items()),
            key=lambda row: (-row["bundle"], -row["onnx"]),
        ),
        "ratios": _ratios(ledger),
        "probes": probed,
        "pretraining_gains": probes.against_baselines(probed[-1]["measured"]),
        "finetune": store.read_json(root / "finetune" / "metrics.json"),
        "variants": costs.variants(metrics, latency),
        "control": _control(metrics),
        "published": [point._asdict() for point in literature.POINTS],
        "pretraining": costs.took(encoder.name, pretraining),
        "steps": costs.steps(metrics, latency, training),
        "layers": matrices.astype(object).where(matrices.notna(), None).to_dict("records"),
        "curves": {
            "pretrain": curves(pretraining, PRETRAIN),
            "prune": [
                {"stage": stage, **one}
                for stage, history in pruned.groupby("stage", sort=False)
                for one in curves(history, PRUNE)
            ],
        },
    }


def _model(name: str, metrics: Mapping[str, Any], latency: Mapping[str, int | float]) -> dict[str, Any]:
    against = claims.measured(metrics, f"{name}_minus_teacher_points")
    sizes = {key: metrics[f"{name}_{key}"] for key in ("size_bytes", "zstd_bytes")}
    return {
        "name": name,
        "accuracy": claims.measured(metrics, f"{name}_accuracy"),
        "difference": against,
        **sizes,
        "ratio": metrics["teacher_size_bytes"] / sizes["size_bytes"],
        "zstd_ratio": metrics["teacher_zstd_bytes"] / sizes["zstd_bytes"],
        "latency": {batch: _took(latency, batch) for batch in _BATCHES},
    }


def _engine(latency: Mapping[str, Any]) -> dict[str, Any]:
    """Tell how the int8 model does in the engine, or why it does not."""
    return {
        "latency": {batch: _took(latency, batch) for batch in _BATCHES},
        "classes_that_differ": latency.get("classes_that_differ"),
        "missing": latency.get("missing"),
    }


def _control(metrics: Mapping[str, Any]) -> dict[str, Any] | None:
    """Judge the int8 model by the dense one of as many bytes; None where nobody trained that."""
    against = claims.measured(metrics, "int8_minus_control_points")
    if against is None:
        return None
    return {
        "accuracy": claims.measured(metrics, "control_accuracy"),
        "size_bytes": metrics["control_bundle_size_bytes"],
        "difference": against,
        "verdict": verdict(against["low"], against["high"]),
    }


def _took(latency: Mapping[str, Any], batch: str) -> dict[str, Any] | None:
    keys = ("p10", "median", "p90")
    took = {key: latency.get(f"{batch}_{key}_ms") for key in keys}
    return None if None in took.values() else took


def _median(model: Mapping[str, Any]) -> float | None:
    took = model["latency"][_BATCHES[0]]
    return None if took is None else took["median"]


def _ratios(ledger: Mapping[str, Any]) -> list[dict[str, Any]]:
    student, teacher = ledger["student_to_int8"], ledger["teacher_to_int8"]
    return [
        {"key": key, "name": name, "counts": counts, "student": student[key], "teacher": teacher[key]}
        for key, (name, counts) in _RATIOS.items()
    ]


def curves(table: pd.DataFrame, names: Sequence[str]) -> list[dict[str, Any]]:
    """Take columns of a history, thinned to what a chart can show; those without two points are left out."""
    found = []
    for name in names:
        if name not in table:
            continue
        rows = table[["step", name]].dropna()
        if len(rows) < 2:  # a point is no curve
            continue
        stride = -(-len(rows) // _POINTS)
        last = rows.tail(1) if (len(rows) - 1) % stride else rows.head(0)
        thinned = pd.concat([rows.iloc[::stride], last])
        found.append(
            {
                "name": name,
                "first": float(rows[name].iloc[0]),
                "last": float(rows[name].iloc[-1]),
                "points": [
                    {"x": int(step), "y": float(value)} for step, value in thinned.itertuples(index=False)
                ],
            }
        )
    return found


def render(card: Mapping[str, Any]) -> str:
    """Write the page: a function of the card's JSON, and of nothing else."""
    last = card["probes"][-1]["measured"]
    return page.render(
        "card.html.jinja",
        card=card,
        accuracies=[
            {"label": model["name"], **(model["accuracy"] or {"value": None})} for model in card["models"]
        ],
        sizes=[
            *({"label": model["name"], "value": model["size_bytes"]} for model in card["models"]),
            {"label": "bundle", "value": card["bundle"]["size_bytes"]},
        ],
        latencies=[
            *({"label": model["name"], "value": _median(model)} for model in card["models"]),
            {"label": "int8 in the engine", "value": _median(card["engine"])},
        ],
        columns=_COLUMNS,
        parts=[{"name": row["name"].replace("_", " "), "value": row["bundle"]} for row in card["parts"]],
        probed=[{"label": text, **(last[name] or {"value": None})} for name, text in probes.NAMES.items()],
        curve=probes.curve(card["probes"]),
        zeros={name: layers.table(card["layers"], name) for name in ("sparsity", "int8_sparsity")},
        sensitivity=layers.sensitivity(card["layers"], card["sparsity"]),
    )


if __name__ == "__main__":
    run(main)
