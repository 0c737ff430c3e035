"""What the probes of all rounds measured, for the pages that show it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from winnow.data import store
from winnow.data.pages import claims

NAMES = {
    "linear": "linear probe",
    "knn": "nearest neighbours",
    "descriptor_linear": "descriptors",
    "random_linear": "untrained encoder",
}
_BASELINES = {"descriptor_linear": "descriptors", "random_linear": "an untrained encoder"}


def read(root: Path, rounds: Sequence[int]) -> list[dict[str, Any]]:
    """Read `probe@r/metrics.json` of the data as delivered (r = 0) and of every round."""
    found = []
    for number in (0, *rounds):
        metrics = store.read_json(root / f"probe@{number}" / "metrics.json")
        found.append(
            {
                "round": number,
                "measured": {name: claims.measured(metrics, f"{name}_accuracy") for name in NAMES},
                "train_samples": metrics.get("train_samples"),
                "test_samples": metrics.get("test_samples"),
            }
        )
    return found


def against_baselines(measured: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Judge the pretrained encoder against what needs no pretraining."""
    judged = ((text, claims.gain(measured[name], measured["linear"])) for name, text in _BASELINES.items())
    return [{"baseline": text, **gain} for text, gain in judged if gain]


def curve(probes: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Give the lines of a chart: accuracy over rounds, the baselines dashed."""
    return [
        {
            "name": text,
            "dashed": "_" in name,
            "points": [
                {"x": probe["round"], "y": found["value"], **found}
                for probe in probes
                if (found := probe["measured"][name])
            ],
        }
        for name, text in NAMES.items()
    ]
