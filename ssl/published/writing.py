"""Encoder → Hugging Face's data2vec."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from winnow.data import store
from winnow.data.modality import Modality
from winnow.ssl.published.names import (
    OUTPUT_NORM,
    SPEECH,
    TEXT,
    VISION,
    VISION_WHOLE,
    Names,
    Weights,
    rename,
)
from winnow.ssl.shape import Shape, SlicedShape
from winnow.ssl.trunk import PROJECTIONS, Encoder


def to_huggingface(encoder: Encoder, folder: Path) -> None:
    """Write an encoder as Hugging Face's data2vec reads it: `config.json` and `model.safetensors`.

    Raises:
        ValueError: if none of its three encoders has the same switches.
    """
    kind = type(encoder.modality).__name__
    if kind not in _WRITERS:
        raise ValueError(
            f"Hugging Face's data2vec has no frontend of {kind}; it has those of {', '.join(_WRITERS)}"
        )
    shape, weights = encoder.shape, dict(encoder.state_dict())
    if not isinstance(shape, Shape):
        raise ValueError(
            f"the blocks of shape.timm {shape.timm!r} are timm's, not those of data2vec's encoders"
        )
    if isinstance(shape, SlicedShape):
        raise ValueError(
            "shape.slices has no place in Hugging Face's encoders, whose layers are all of one size: "
            "distill with heads and channels 1.0"
        )
    common = {
        "hidden_size": shape.dim,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "intermediate_size": int(shape.dim * shape.mlp_ratio),
        "layer_norm_eps": shape.norm_eps,
        "hidden_act": "gelu",
    }
    config, names, whole = _WRITERS[kind](shape, encoder.modality, weights)
    back = {ours: theirs for theirs, ours in names.items()}
    whole_back = {ours: theirs for theirs, ours in whole.items()}
    folder.mkdir(parents=True, exist_ok=True)
    renamed = {name: value.contiguous() for name, value in rename(weights, back, whole_back).items()}
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})
    store.write_json(folder / "config.json", common | config)


Written = tuple[dict[str, Any], Names, Names]


def _require(shape: Shape, **switches: Any) -> None:
    for name, wanted in {"position_norm": False, **switches}.items():
        allowed = wanted if isinstance(wanted, list) else [wanted]
        if getattr(shape, name) not in allowed:
            raise ValueError(
                f"shape.{name} {getattr(shape, name)!r} has no place in Hugging Face's encoder of this "
                f"modality, which has {' or '.join(map(repr, allowed))}"
            )


def _write_speech(shape: Shape, modality: Modality, weights: Weights) -> Written:
    convolutions = shape.convolutions
    _require(
        shape,
        norm="post",
        norm_eps=1e-5,
        output_norm="none",
        layer_scale=None,
        biases=PROJECTIONS,
        positions="none",
        attention_bias="none",
        extra_tokens=0,
    )
    if convolutions is None:
        raise ValueError("shape.convolutions null has no place in Hugging Face's encoder of speech")
    made: list[list[int]] = modality.convolutions  # type: ignore[attr-defined]
    config = {
        "model_type": "data2vec-audio",
        "architectures": ["Data2VecAudioModel"],
        "conv_dim": [channels for channels, _, _ in made],
        "conv_kernel": [kernel for _, kernel, _ in made],
        "conv_stride": [stride for _, _, stride in made],
        "num_feat_extract_layers": len(made),
        "num_conv_pos_embeddings": convolutions.layers,
        "conv_pos_kernel_size": convolutions.kernel,
        "num_conv_pos_embedding_groups": convolutions.groups,
        "hidden_dropout": shape.dropout,
        "attention_dropout": shape.attention_dropout,
        "layerdrop": shape.drop_layer,
        "mask_time_prob": 0.0,  # there is no mask token to cover with
    }
    return config, SPEECH, {}


def _write_text(shape: Shape, modality: Modality, weights: Weights) -> Written:
    padding = int(modality.padding)  # type: ignore[attr-defined]
    _require(
        shape,
        norm="post",
        output_norm="none",
        layer_scale=None,
        biases=PROJECTIONS,
        positions="learned",
        convolutions=None,
        attention_bias="none",
        extra_tokens=0,
    )
    positions = weights.pop("positions")
    before = positions.new_zeros(padding + 1, shape.dim)
    weights["embeddings.position_embeddings.weight"] = torch.cat([before, positions])
    weights["embeddings.token_type_embeddings.weight"] = positions.new_zeros(1, shape.dim)
    config = {
        "model_type": "data2vec-text",
        "architectures": ["Data2VecTextModel"],
        "vocab_size": len(weights["frontend.embedding.weight"]),
        "max_position_embeddings": len(positions) + padding + 1,
        "type_vocab_size": 1,
        "pad_token_id": padding,
        "hidden_dropout_prob": shape.dropout,
        "attention_probs_dropout_prob": shape.attention_dropout,
    }
    return config, TEXT, {}


def _write_vision(shape: Shape, modality: Modality, weights: Weights) -> Written:
    _require(
        shape,
        norm="pre",
        output_norm=["token", "pooled", "none"],
        biases=("query", "value"),
        positions=["none", "learned"],
        convolutions=None,
        attention_bias=["none", "shared_table", "layer_table"],
        extra_tokens=1,
        drop_layer=0.0,
    )
    weights["embeddings.cls_token"] = weights.pop("extra")[None]
    if shape.positions == "learned":
        positions = weights.pop("positions")
        weights["embeddings.position_embeddings"] = torch.cat([positions.new_zeros(1, shape.dim), positions])[
            None
        ]
    size, patch, channels = (getattr(modality, name) for name in ("size", "patch", "channels"))
    config = {
        "model_type": "data2vec-vision",
        "architectures": ["Data2VecVisionModel"],
        "image_size": size,
        "patch_size": patch,
        "num_channels": channels,
        "use_mask_token": False,
        "use_absolute_position_embeddings": shape.positions == "learned",
        "use_shared_relative_position_bias": shape.attention_bias == "shared_table",
        "use_relative_position_bias": shape.attention_bias == "layer_table",
        "use_mean_pooling": shape.output_norm != "token",
        "layer_scale_init_value": shape.layer_scale or 0.0,
        "drop_path_rate": shape.drop_path,
        "hidden_dropout_prob": shape.dropout,
        "attention_probs_dropout_prob": shape.attention_dropout,
    }
    table = "encoder.relative_position_bias.relative_position_bias_table"
    other = next(theirs for theirs, ours in VISION_WHOLE.items() if ours == "relative.*.table")
    unused = other if shape.attention_bias == "shared_table" else table
    whole = {theirs: ours for theirs, ours in VISION_WHOLE.items() if theirs != unused}
    return config, VISION | OUTPUT_NORM[shape.output_norm], whole


_WRITERS = {"Waveform": _write_speech, "Subwords": _write_text, "Vision": _write_vision}
