"""Hugging Face's data2vec → encoder."""

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from winnow.data import modality as modalities
from winnow.data import store
from winnow.data.modality import Modality
from winnow.ssl.positions import ConvolutionShape
from winnow.ssl.published.names import (
    OUTPUT_NORM,
    SPEECH,
    TEXT,
    VISION,
    VISION_WHOLE,
    Weights,
    load_into,
    rename,
)
from winnow.ssl.shape import Shape
from winnow.ssl.trunk import PROJECTIONS, Encoder

_log = logging.getLogger(__name__)


def from_huggingface(folder: Path, modality: Modality | None = None) -> Encoder:
    """Make an encoder of a folder that `save_pretrained` wrote.

    Args:
        folder: holds `config.json` and `model.safetensors`; of a text encoder `tokenizer.json` too.
        modality: that the encoder is to read; None for the one that the folder tells of, with samples of
            10 seconds or as many tokens as there are positions.

    Raises:
        ValueError: if the encoder is none of data2vec's, has what this trunk has not, or its weights and the
            modality do not fit.
        FileNotFoundError: if a file is missing.
    """
    config = store.read_json(folder / "config.json")
    kind = str(config.get("model_type", "")).removeprefix("data2vec-")
    if kind not in _READERS:
        raise ValueError(
            f"{folder / 'config.json'}: model_type {config.get('model_type')!r} is no data2vec encoder; "
            f"read are {', '.join(f'data2vec-{name}' for name in _READERS)}"
        )
    path = folder / "model.safetensors"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; save_pretrained(..., safe_serialization=True) writes it")
    weights = {re.sub(r"^data2vec_\w+?\.", "", name): value for name, value in load_file(path).items()}
    shape, section, renamed = _READERS[kind](config, weights, folder)
    encoder = Encoder(modality or modalities.build(section), shape)
    wanted = encoder.state_dict()
    if len(encoder.modality.grid) == 1 and "positions" in renamed:  # samples may be shorter
        renamed["positions"] = renamed["positions"][: encoder.modality.grid[0]]
    left = sorted(renamed.keys() - wanted.keys())
    _log.info("not read: %s", ", ".join(left) or "nothing")
    load_into(encoder, {name: value for name, value in renamed.items() if name in wanted}, path)
    return encoder.eval()


def _shape(config: Mapping[str, Any], **switches: Any) -> Shape:
    """Read what the three configurations have in common."""
    if config.get("hidden_act", "gelu") != "gelu":
        raise ValueError(f"hidden_act {config['hidden_act']!r} is not read, only 'gelu'")
    plain: dict[str, Any] = {
        "position_norm": False,
        "output_norm": "none",
        "layer_scale": None,
        "biases": PROJECTIONS,
        "convolutions": None,
        "attention_bias": "none",
        "extra_tokens": 0,
        "drop_path": 0.0,
        "drop_layer": 0.0,
    }
    return Shape(
        dim=config["hidden_size"],
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        mlp_ratio=config["intermediate_size"] / config["hidden_size"],
        norm_eps=config["layer_norm_eps"],
        **(plain | switches),
    )


Read = tuple[Shape, dict[str, Any], Weights]


def _read_speech(config: Mapping[str, Any], weights: Weights, folder: Path) -> Read:
    for key, value in (("conv_bias", False), ("feat_extract_activation", "gelu"), ("layer_norm_eps", 1e-5)):
        if config.get(key, value) != value:
            raise ValueError(f"{folder / 'config.json'}: {key} {config[key]!r} is not read, only {value!r}")
    shape = _shape(
        config,
        norm="post",
        positions="none",
        convolutions=ConvolutionShape(
            layers=config["num_conv_pos_embeddings"],
            kernel=config["conv_pos_kernel_size"],
            groups=config["num_conv_pos_embedding_groups"],
        ),
        input_dropout=config["hidden_dropout"],
        dropout=config["hidden_dropout"],
        attention_dropout=config["attention_dropout"],
        drop_layer=config["layerdrop"],
    )
    convolutions = zip(config["conv_dim"], config["conv_kernel"], config["conv_stride"], strict=True)
    section = {
        "class_path": "winnow.data.speech.Waveform",
        "init_args": {
            "sample_rate_hz": 16_000,
            "seconds": 10.0,
            "convolutions": [list(one) for one in convolutions],
        },
    }
    return shape, section, rename(weights, SPEECH, {})


def _read_text(config: Mapping[str, Any], weights: Weights, folder: Path) -> Read:
    shape = _shape(
        config,
        norm="post",
        positions="learned",
        input_dropout=config["hidden_dropout_prob"],
        dropout=config["hidden_dropout_prob"],
        attention_dropout=config["attention_probs_dropout_prob"],
    )
    renamed = rename(weights, TEXT, {})
    # Positions are counted from the one behind the padding's id; all tokens are of the first type.
    first = config["pad_token_id"] + 1
    positions = renamed.pop("embeddings.position_embeddings.weight")[first:]
    renamed["positions"] = positions + renamed.pop("embeddings.token_type_embeddings.weight")[0]
    section = {
        "class_path": "winnow.data.text.Subwords",
        "init_args": {"tokenizer": str(folder / "tokenizer.json"), "length": len(positions)},
    }
    return shape, section, renamed


def _read_vision(config: Mapping[str, Any], weights: Weights, folder: Path) -> Read:
    tables = {
        "shared_table": config["use_shared_relative_position_bias"],
        "layer_table": config["use_relative_position_bias"],
    }
    has_pooler = "pooler.layernorm.weight" in weights
    shape = _shape(
        config,
        norm="pre",
        output_norm="token" if not config["use_mean_pooling"] else "pooled" if has_pooler else "none",
        layer_scale=config["layer_scale_init_value"] if config["layer_scale_init_value"] > 0 else None,
        biases=("query", "value"),
        positions="learned" if config["use_absolute_position_embeddings"] else "none",
        attention_bias=next((name for name, used in tables.items() if used), "none"),
        extra_tokens=1,
        input_dropout=config["hidden_dropout_prob"],
        dropout=config["hidden_dropout_prob"],
        attention_dropout=config["attention_probs_dropout_prob"],
        drop_path=config["drop_path_rate"],
    )
    renamed = rename(weights, VISION | OUTPUT_NORM[shape.output_norm], VISION_WHOLE)
    renamed["extra"] = renamed.pop("embeddings.cls_token")[0]
    if shape.positions == "learned":
        positions = renamed.pop("embeddings.position_embeddings")[0]
        renamed["extra"] = renamed["extra"] + positions[:1]
        renamed["positions"] = positions[1:]
    section = {
        "class_path": "winnow.data.vision.Vision",
        "init_args": {
            "size": config["image_size"],
            "patch": config["patch_size"],
            "channels": config["num_channels"],
        },
    }
    return shape, section, renamed


_READERS = {"audio": _read_speech, "text": _read_text, "vision": _read_vision}
