"""fairseq's data2vec 2.0 → encoder.

The names are those of its source; no published file was at hand to try them on.
"""

import logging
import re
from collections.abc import Mapping

from torch import Tensor

from winnow.data.modality import Modality
from winnow.ssl.published.names import Names, load_into, rename
from winnow.ssl.shape import Shape
from winnow.ssl.trunk import PROJECTIONS, Encoder

_log = logging.getLogger(__name__)

_FAIRSEQ: Names = {
    "local_encoder.proj": "frontend.project",
    "local_encoder.conv_layers.*.0": "frontend.layers.*",
    "local_encoder.conv_layers.*.2.1": "frontend.norms.*",
    "local_encoder.embed_tokens": "frontend.embedding",
    "local_encoder.layernorm_embedding": "position_norm",
    "project_features.1": "frontend.norm",
    "project_features.2": "frontend.project",
    "context_encoder.norm": "norm",
    "blocks.*.norm1": "layers.*.norm1",
    "blocks.*.attn.proj": "layers.*.attention.out",
    "blocks.*.norm2": "layers.*.norm2",
    "blocks.*.mlp.fc1": "layers.*.fc1",
    "blocks.*.mlp.fc2": "layers.*.fc2",
}


def from_fairseq(weights: Mapping[str, Tensor], modality: Modality, shape: Shape) -> Encoder:
    """Make an encoder of the `model` part of a data2vec 2.0 checkpoint, all of one modality.

    Args:
        weights: by fairseq's names, `modality_encoders.AUDIO.…` and `blocks.…`.
        modality: that the encoder is to read.
        shape: the recipe's, with `positions: learned` for images: fairseq's fixed codes are read as they are.

    Raises:
        ValueError: if the weights do not fit modality and shape.
    """
    plain = {re.sub(r"^modality_encoders\.[A-Z]+\.", "", name): value for name, value in weights.items()}
    before = {
        int(found[1]) + 1 for name in plain if (found := re.match(r"context_encoder\.blocks\.(\d+)\.", name))
    }
    depth = max(before, default=0)
    ordered = {}
    for name, value in plain.items():
        if found := re.match(r"context_encoder\.(blocks\..+)", name):
            name = found[1]
        elif found := re.match(r"blocks\.(\d+)\.(.+)", name):
            name = f"blocks.{int(found[1]) + depth}.{found[2]}"
        elif found := re.match(r"relative_positional_encoder\.(\d+)\.0\.(.+)", name):
            name = f"convolutions.layers.{int(found[1]) - 1}.{found[2]}"
        ordered[name] = value
    renamed = {}
    for name, value in rename(ordered, _FAIRSEQ, {}).items():
        if found := re.match(r"blocks\.(\d+)\.attn\.qkv\.(.+)", name):
            for projection, part in zip(PROJECTIONS, value.chunk(3), strict=True):
                renamed[f"layers.{found[1]}.attention.{projection}.{found[2]}"] = part
        else:
            renamed[name] = value
    if "alibi_scale" in renamed:
        renamed["relative.0.scale"] = renamed.pop("alibi_scale").flatten()
    if "extra_tokens" in renamed:
        renamed["extra"] = renamed.pop("extra_tokens")[0]
    if "fixed_positional_encoder.positions" in renamed:
        renamed["positions"] = renamed.pop("fixed_positional_encoder.positions")[0]
    if "local_encoder.embed_positions.weight" in renamed:
        padding = int(modality.padding)  # type: ignore[attr-defined]
        positions = renamed.pop("local_encoder.embed_positions.weight")[padding + 1 :]
        renamed["positions"] = positions[: modality.grid[0]]
    encoder = Encoder(modality, shape)
    wanted = encoder.state_dict()
    _log.info("not read: %s", ", ".join(sorted(renamed.keys() - wanted.keys())) or "nothing")
    load_into(encoder, {name: value for name, value in renamed.items() if name in wanted}, "the checkpoint")
    return encoder.eval()
