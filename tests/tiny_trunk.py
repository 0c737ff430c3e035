"""A trunk of two narrow layers, as plain as can be: what a test is about, it switches on."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from winnow.data import store
from winnow.data.modality import Modality
from winnow.data.vision import Vision
from winnow.ssl.shape import Shape
from winnow.ssl.train import Optimization
from winnow.ssl.trunk import Encoder

SHAPE = Shape(
    dim=16,
    layers=2,
    heads=2,
    mlp_ratio=2.0,
    norm="post",
    norm_eps=1e-5,
    position_norm=False,
    output_norm="none",
    layer_scale=None,
    biases=("query", "key", "value"),
    positions="sincos",
    convolutions=None,
    attention_bias="none",
    extra_tokens=0,
    input_dropout=0.0,
    dropout=0.1,
    attention_dropout=0.0,
    drop_path=0.0,
    drop_layer=0.0,
)
OPTIMIZATION = Optimization(
    lr=1e-3,
    batch_size=None,
    warmup=0.1,
    hold=0.0,
    decay="cosine",
    floor=0.0,
    weight_decay=0.01,
    betas=(0.9, 0.98),
    eps=1e-8,
)


def section(settings: Shape | Optimization, **changes: Any) -> dict[str, Any]:
    """Write settings as they stand in params.yaml, some of them changed."""
    return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(settings).items()} | changes


def vision() -> Vision:
    return Vision(size=16, patch=4, channels=1)


def encoder(modality: Modality | None = None, seed: int = 0) -> Encoder:
    torch.manual_seed(seed)
    return Encoder(modality or vision(), SHAPE).eval()


def some_samples(modality: Modality, ingest: Path, number: int = 6) -> Tensor:
    rows = [modality.load(raw) for _, raw in store.payloads(ingest)]
    return torch.stack(rows[:: len(rows) // number][:number])
