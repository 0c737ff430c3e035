"""What published encoders call their weights, and how they become ours."""

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from winnow.ssl.trunk import PROJECTIONS, Encoder

Weights = dict[str, Tensor]
Names = dict[str, str]  # of modules, theirs → ours; * stands for a number

SPEECH: Names = {
    "feature_extractor.conv_layers.*.conv": "frontend.layers.*",
    "feature_extractor.conv_layers.*.layer_norm": "frontend.norms.*",
    "feature_projection.layer_norm": "frontend.norm",
    "feature_projection.projection": "frontend.project",
    "encoder.pos_conv_embed.layers.*.conv": "convolutions.layers.*",
    "encoder.layer_norm": "norm",
    "encoder.layers.*.attention.q_proj": "layers.*.attention.query",
    "encoder.layers.*.attention.k_proj": "layers.*.attention.key",
    "encoder.layers.*.attention.v_proj": "layers.*.attention.value",
    "encoder.layers.*.attention.out_proj": "layers.*.attention.out",
    "encoder.layers.*.layer_norm": "layers.*.norm1",
    "encoder.layers.*.feed_forward.intermediate_dense": "layers.*.fc1",
    "encoder.layers.*.feed_forward.output_dense": "layers.*.fc2",
    "encoder.layers.*.final_layer_norm": "layers.*.norm2",
}
TEXT: Names = {
    "embeddings.word_embeddings": "frontend.embedding",
    "embeddings.LayerNorm": "norm",
    **{f"encoder.layer.*.attention.self.{name}": f"layers.*.attention.{name}" for name in PROJECTIONS},
    "encoder.layer.*.attention.output.dense": "layers.*.attention.out",
    "encoder.layer.*.attention.output.LayerNorm": "layers.*.norm1",
    "encoder.layer.*.intermediate.dense": "layers.*.fc1",
    "encoder.layer.*.output.dense": "layers.*.fc2",
    "encoder.layer.*.output.LayerNorm": "layers.*.norm2",
}
VISION: Names = {
    "embeddings.patch_embeddings.projection": "frontend.project",
    **{f"encoder.layer.*.attention.attention.{name}": f"layers.*.attention.{name}" for name in PROJECTIONS},
    "encoder.layer.*.attention.output.dense": "layers.*.attention.out",
    "encoder.layer.*.layernorm_before": "layers.*.norm1",
    "encoder.layer.*.intermediate.dense": "layers.*.fc1",
    "encoder.layer.*.output.dense": "layers.*.fc2",
    "encoder.layer.*.layernorm_after": "layers.*.norm2",
}
VISION_WHOLE: Names = {  # single tensors
    "encoder.layer.*.lambda_1": "layers.*.scale1",
    "encoder.layer.*.lambda_2": "layers.*.scale2",
    "encoder.relative_position_bias.relative_position_bias_table": "relative.0.table",
    "encoder.layer.*.attention.attention.relative_position_bias.relative_position_bias_table": (
        "relative.*.table"
    ),
}
OUTPUT_NORM: dict[str, Names] = {
    "token": {"layernorm": "output_norm"},
    "pooled": {"pooler.layernorm": "output_norm"},
    "none": {},
}


def rename(weights: Mapping[str, Tensor], names: Names, whole: Names) -> Weights:
    """Give weights other names, of modules and of `whole` tensors; those that have none keep theirs."""
    rules = [(_pattern(f"{theirs}."), f"{ours}.") for theirs, ours in names.items()]
    rules += [(_pattern(f"{theirs}$"), ours) for theirs, ours in whole.items()]
    found_names = {}
    for name, value in weights.items():
        for pattern, ours in rules:
            if found := pattern.match(name):
                name = ours.replace("*", found[1] if found.groups() else "") + name[found.end() :]
                break
        found_names[name] = value
    return found_names


def _pattern(name: str) -> re.Pattern[str]:
    end = "$" if name.endswith("$") else ""
    return re.compile(re.escape(name.removesuffix("$")).replace(r"\*", r"(\d+)") + end)


def load_into(encoder: Encoder, weights: Weights, path: Path | str) -> None:
    """Put weights into an encoder.

    Raises:
        ValueError: if they do not fit it.
    """
    try:
        encoder.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"{path} and the modality do not fit: {error}") from error
