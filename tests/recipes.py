"""The published recipes at a size that a test can wait for: narrower, shallower, fewer tokens."""

from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import ArgumentParser
from torch import Tensor

from winnow.data.modality import Modality
from winnow.data.speech import Waveform
from winnow.data.text import Subwords, Text
from winnow.data.vision import Vision
from winnow.ssl.data2vec import Data2Vec

RECIPES = Path(__file__).parent.parent / "examples" / "recipes"


def read(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def small(path: Path) -> tuple[Data2Vec, Tensor]:
    """Make a recipe's method, of width 16 and 3 layers, and a batch for it."""
    recipe = read(path)
    settings = recipe["pretrain"]["model"]
    settings["shape"] |= {"dim": 16, "layers": 3, "heads": 2, "mlp_ratio": 2.0}
    if settings["shape"]["convolutions"]:
        settings["shape"]["convolutions"] |= {"kernel": 5, "groups": 4}
    settings["target"]["layers"] = min(settings["target"]["layers"], 2)
    settings["masks"] = min(settings["masks"], 2)
    if "dim" in settings["predictor"]:
        settings["predictor"] |= {"dim": 8, "groups": min(settings["predictor"]["groups"], 4), "layers": 2}
    if "min_tokens" in settings["masking"]:
        settings["masking"]["min_tokens"] = 2
    if "length" in settings["masking"]:
        settings["masking"]["length"] = 2
    torch.manual_seed(0)
    modality, x = _batch(recipe["modality"])
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Data2Vec, "model", skip={"modality", "seed"}, instantiate=False)
    parsed = parser.instantiate(parser.parse_object({"model": settings}))["model"]
    return Data2Vec(modality, **dict(parsed), seed=0), x


def _batch(section: dict[str, Any]) -> tuple[Modality, Tensor]:
    kind = section["class_path"].rpartition(".")[2]
    if kind == Vision.__name__:
        return Vision(size=20, patch=4, channels=3), torch.rand(2, 3, 20, 20)
    if kind == Waveform.__name__:
        convolutions = [[8, kernel, stride] for _, kernel, stride in section["init_args"]["convolutions"][:3]]
        modality = Waveform(sample_rate_hz=1000, seconds=0.3, convolutions=convolutions)
        x = torch.randn(2, modality.length)
        x[1, 200:] = 0
        return modality, x
    assert kind == Subwords.__name__  # tells padding by an id, as hashed subwords do
    x = torch.randint(1, 50, (2, 12))
    x[1, 8:] = 0
    return Text(length=12, vocabulary=50), x
