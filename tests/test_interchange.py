"""Parity with the published encoders, on weights of which none is where it starts."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonargparse import auto_cli
from safetensors.torch import load_file, save_file
from tiny_trunk import SHAPE
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import (
    Data2VecAudioConfig,
    Data2VecAudioModel,
    Data2VecTextConfig,
    Data2VecTextForMaskedLM,
    Data2VecTextModel,
    Data2VecVisionConfig,
    Data2VecVisionModel,
    PreTrainedModel,
)

from winnow.data.modality import Modality
from winnow.data.speech import Speech, Waveform
from winnow.data.text import Subwords, Text
from winnow.data.vision import Vision
from winnow.ssl import model as saved
from winnow.ssl.interchange import read, write
from winnow.ssl.positions import ConvolutionShape
from winnow.ssl.published.fairseq import from_fairseq
from winnow.ssl.published.reading import from_huggingface
from winnow.ssl.published.writing import to_huggingface
from winnow.ssl.shape import Shape
from winnow.ssl.trunk import Encoder

SIZE: dict[str, Any] = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 40,
}
CLOSE = 1e-5


def perturbed(module: nn.Module) -> Any:
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in module.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    return module.eval()


def tokenizer(folder: Path) -> Path:
    """A vocabulary of a few words, padded by the id 1 as RoBERTa's is."""
    words = ["<s>", "<pad>", "</s>", "<unk>", *["the", "a", "word", "of", "in", "and", "is", "data", "model"]]
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    made.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"


def speech(**changes: Any) -> PreTrainedModel:
    config = Data2VecAudioConfig(
        **SIZE,
        conv_dim=(8, 12, 8),
        conv_kernel=(10, 3, 2),
        conv_stride=(5, 2, 2),
        num_conv_pos_embeddings=2,
        conv_pos_kernel_size=5,
        num_conv_pos_embedding_groups=4,
        **changes,
    )
    return perturbed(Data2VecAudioModel(config))


def text(**changes: Any) -> PreTrainedModel:
    settings = {"vocab_size": 13, "max_position_embeddings": 14, "type_vocab_size": 1, "layer_norm_eps": 1e-5}
    return perturbed(Data2VecTextModel(Data2VecTextConfig(**SIZE, **(settings | changes))))


def vision(**changes: Any) -> PreTrainedModel:
    settings = {"image_size": 20, "patch_size": 4, "num_channels": 3, "use_mean_pooling": False}
    settings |= changes
    pooled = settings.pop("pooler", settings["use_mean_pooling"])
    config = Data2VecVisionConfig(**SIZE, **settings)
    return perturbed(Data2VecVisionModel(config, add_pooling_layer=pooled))


def waves() -> Tensor:
    x = torch.randn(2, 800)
    x[1, 500:] = 0
    return x


def ids() -> Tensor:
    x = torch.randint(2, 13, (2, 12))
    x[1, 7:] = 1
    return x


def pictures() -> Tensor:
    return torch.randn(2, 3, 20, 20)


Batch = Callable[[], Tensor]
PUBLISHED: dict[str, tuple[Callable[..., PreTrainedModel], dict[str, Any], Batch]] = {
    "speech": (speech, {}, waves),
    "text": (text, {}, ids),
    "text with types": (text, {"type_vocab_size": 2}, ids),
    "vision, one table": (vision, {"use_shared_relative_position_bias": True}, pictures),
    "vision, a table in each layer": (vision, {"use_relative_position_bias": True}, pictures),
    "vision, pooled": (vision, {"use_relative_position_bias": True, "use_mean_pooling": True}, pictures),
    "vision, without a norm": (vision, {"use_mean_pooling": True, "pooler": False}, pictures),
    "vision, learned positions": (vision, {"use_absolute_position_embeddings": True}, pictures),
    "vision, no layer scale": (vision, {"layer_scale_init_value": 0.0}, pictures),
}


def modality_of(model: PreTrainedModel, folder: Path) -> Modality | None:
    """The one that reads the test's samples; None where the folder tells enough."""
    if isinstance(model, Data2VecAudioModel):
        return Waveform(16_000, 0.05, [[8, 10, 5], [12, 3, 2], [8, 2, 2]])
    return None


def outputs(model: PreTrainedModel, x: Tensor) -> dict[str, list[Tensor] | Tensor]:
    """What a published encoder makes of a batch, taps by hooks on its feed-forward parts."""
    taps: list[Tensor] = []
    for name, module in model.named_modules():
        parts = name.split(".")
        if name.endswith(("feed_forward.output_dense", "output.dense")) and "attention" not in parts:
            module.register_forward_hook(lambda module, given, out: taps.append(out))
    keywords = {} if x.ndim > 2 else {"attention_mask": (x != (1 if x.dtype == torch.long else 0)).long()}
    with torch.no_grad():
        found = model(x, output_hidden_states=True, **keywords)
    last = found.last_hidden_state
    return {"hidden": list(found.hidden_states[1:]), "taps": taps, "last": last, "model": found}


def assert_equal(encoder: Encoder, model: PreTrainedModel, x: Tensor) -> float:
    """Compare all that both give, and tell the largest difference."""
    wanted = outputs(model, x)
    with torch.no_grad():
        given = encoder(x)
        pooled = encoder.pooled(given)
    valid, extra = given.valid, encoder.shape.extra_tokens
    worst = 0.0

    def compare(ours: Tensor, theirs: Tensor) -> None:
        nonlocal worst
        assert ours.shape == theirs.shape
        difference = float((ours - theirs).abs().max()) if ours.numel() else 0.0
        worst = max(worst, difference)
        assert difference < CLOSE

    assert len(given.hidden) == len(wanted["hidden"]) == len(given.taps) == len(wanted["taps"])
    for ours, theirs in zip((*given.hidden, *given.taps), (*wanted["hidden"], *wanted["taps"]), strict=True):
        compare(ours[valid], theirs[:, extra:][valid])
    last: Tensor = wanted["last"]  # type: ignore[assignment]
    if encoder.shape.output_norm == "pooled":
        compare(pooled, wanted["model"].pooler_output)  # type: ignore[union-attr]
    else:
        compare(given.out[valid], last[:, extra:][valid])
    compare(given.extra, last[:, :extra])
    return worst


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_encoder_comes_in_and_goes_out_again(name: str, tmp_path: Path) -> None:
    make, changes, batch = PUBLISHED[name]
    model, x = make(**changes), batch()
    assert outputs(model, x)["taps"], "no hook was met"
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    model = make(**changes)  # without hooks
    model.save_pretrained(theirs)
    tokenizer(theirs)
    encoder = from_huggingface(theirs, modality_of(model, theirs))
    assert_equal(encoder, model, x)
    # A key's bias shifts all scores of a query alike, which no output shows.
    theirs_of_keys = [v for k, v in model.state_dict().items() if k.endswith(("k_proj.bias", "key.bias"))]
    ours_of_keys = [v for k, v in encoder.state_dict().items() if k.endswith("key.bias")]
    for one, other in zip(ours_of_keys, theirs_of_keys, strict=True):
        assert torch.equal(one, other)
    to_huggingface(encoder, ours)
    pooler = {"add_pooling_layer": True} if "pooled" in name else {}
    again = type(model).from_pretrained(ours, output_loading_info=True, **pooler)
    back, report = again
    assert not report["unexpected_keys"]
    assert all("pooler" in key or key == "masked_spec_embed" for key in report["missing_keys"])
    assert_equal(encoder, back.eval(), x)


def test_an_encoder_of_ours_goes_out_and_in_the_same(tmp_path: Path) -> None:
    shape = replace(
        SHAPE, norm="pre", output_norm="token", layer_scale=0.1, biases=("query", "value"),
        positions="none", attention_bias="shared_table", extra_tokens=1, dropout=0.0,
    )  # fmt: skip
    encoder = perturbed(Encoder(Vision(size=20, patch=4, channels=3), shape))
    to_huggingface(encoder, tmp_path)
    back = from_huggingface(tmp_path)
    assert back.shape == replace(shape, norm_eps=shape.norm_eps)
    for (name, one), (_, other) in zip(encoder.state_dict().items(), back.state_dict().items(), strict=True):
        assert torch.equal(one, other), name


def test_a_model_with_a_head_gives_its_encoder(tmp_path: Path) -> None:
    config = Data2VecTextConfig(**SIZE, vocab_size=13, max_position_embeddings=14, type_vocab_size=1)
    model = perturbed(Data2VecTextForMaskedLM(config))
    model.save_pretrained(tmp_path)
    tokenizer(tmp_path)
    assert_equal(from_huggingface(tmp_path), model.data2vec_text, ids())


def test_the_command_line_reads_and_writes(tmp_path: Path) -> None:
    model = vision(use_shared_relative_position_bias=True)
    model.save_pretrained(tmp_path / "theirs")
    command = [sys.executable, "-m", "winnow.ssl.interchange", "read"]
    subprocess.run(
        [*command, str(tmp_path / "theirs"), str(tmp_path / "ours")], check=True, capture_output=True
    )
    assert_equal(saved.load_encoder(tmp_path / "ours"), model, pictures())
    auto_cli([read, write], args=["write", str(tmp_path / "ours"), str(tmp_path / "back")])
    again = Data2VecVisionModel.from_pretrained(tmp_path / "back").eval()
    assert_equal(saved.load_encoder(tmp_path / "ours"), again, pictures())


def test_subwords_read_what_published_text_encoders_read(tmp_path: Path) -> None:
    modality = Subwords(str(tokenizer(tmp_path)), length=6)
    assert modality.load(b"the data of nobody").tolist() == [0, 4, 11, 7, 3, 2]
    assert modality.load(b"the data of a word in a model").tolist() == [0, 4, 11, 7, 5, 2]
    assert modality.load(b"word").tolist() == [0, 6, 2, 1, 1, 1]
    variant = modality.transform(modality.load(b"word"), torch.Generator().manual_seed(0), 1.0)
    assert variant.tolist()[0] == 0 and 2 in variant.tolist()
    valid = modality.frontend(8)(modality.load(b"word")[None]).valid
    assert valid.tolist() == [[True] * 3 + [False] * 3]
    with pytest.raises(FileNotFoundError, match=r"nothing\.json is no file"):
        Subwords(str(tmp_path / "nothing.json"), length=6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "wav2vec2"}, "'wav2vec2' is no data2vec encoder"),
        ({"hidden_act": "relu"}, "hidden_act 'relu' is not read"),
        ({"patch_size": 5}, "do not fit"),
    ],
)
def test_refuses_what_is_none_of_the_encoders(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    vision().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ValueError, match=message):
        from_huggingface(tmp_path)


def test_never_reads_a_pickle(tmp_path: Path) -> None:
    vision().save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    torch.save(weights, tmp_path / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors is missing"):
        from_huggingface(tmp_path)


@pytest.mark.parametrize(
    ("modality", "changes", "message"),
    [
        (Speech(8000, 0.5, 16, 5), {}, "no frontend of Speech"),
        (Text(6, 20), {"positions": "learned"}, "no frontend of Text"),
        (Vision(8, 4, 1), {}, r"shape.norm 'post' has no place .* 'pre'"),
        (Waveform(1000, 0.2, [[8, 5, 4]]), {"positions": "none"}, "shape.convolutions null has no place"),
    ],
)
def test_says_which_switch_has_no_place_in_a_published_encoder(
    modality: Modality, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        to_huggingface(Encoder(modality, replace(SHAPE, **changes)), tmp_path)


# --- fairseq's data2vec 2.0 ---------------------------------------------------------------------

WAVES = Waveform(1000, 0.2, [[8, 5, 4], [8, 3, 2]])
FAIRSEQ: dict[str, tuple[Modality, Shape]] = {
    "AUDIO": (
        WAVES,
        replace(
            SHAPE,
            positions="none",
            attention_bias="alibi",
            convolutions=ConvolutionShape(layers=2, kernel=3, groups=4),
        ),
    ),
    "IMAGE": (Vision(size=16, patch=4, channels=1), replace(SHAPE, positions="learned", extra_tokens=1)),
    "TEXT": (Text(length=9, vocabulary=20), replace(SHAPE, positions="learned", position_norm=True)),
}


def as_fairseq(encoder: Encoder, kind: str, prenet: int) -> dict[str, Tensor]:
    """Name an encoder's weights as fairseq's modules would: read there, module by module."""
    found: dict[str, Tensor] = {}
    front = f"modality_encoders.{kind}."

    def put(name: str, module: nn.Module) -> None:
        found.update({f"{name}.{key}": value for key, value in module.state_dict().items()})

    frontend: Any = encoder.frontend
    if kind == "AUDIO":
        for i in range(2):
            put(f"{front}local_encoder.conv_layers.{i}.0", frontend.layers[i])
            put(f"{front}local_encoder.conv_layers.{i}.2.1", frontend.norms[i])
            put(f"{front}relative_positional_encoder.{i + 1}.0", encoder.convolutions.layers[i])  # type: ignore
        put(f"{front}project_features.1", frontend.norm)
        put(f"{front}project_features.2", frontend.project)
        found[f"{front}alibi_scale"] = encoder.relative[0].scale.detach().reshape(1, 1, -1, 1, 1)  # type: ignore
    elif kind == "IMAGE":
        put(f"{front}local_encoder.proj", frontend.project)
        found[f"{front}extra_tokens"] = encoder.extra.detach()[None]  # type: ignore[union-attr]
        found[f"{front}fixed_positional_encoder.positions"] = encoder.positions.detach()[None]  # type: ignore
    else:
        put(f"{front}local_encoder.embed_tokens", frontend.embedding)
        padded = torch.cat([torch.zeros(1, 16), encoder.positions.detach(), torch.zeros(3, 16)])  # type: ignore
        found[f"{front}local_encoder.embed_positions.weight"] = padded
        put(f"{front}local_encoder.layernorm_embedding", encoder.position_norm)  # type: ignore[arg-type]
    put(f"{front}context_encoder.norm", encoder.norm)  # type: ignore[arg-type]
    for i, layer in enumerate(encoder.layers):
        name = f"{front}context_encoder.blocks.{i}" if i < prenet else f"blocks.{i - prenet}"
        attention: Any = layer.attention
        for end in ("weight", "bias"):
            parts = [getattr(attention, part) for part in ("query", "key", "value")]
            found[f"{name}.attn.qkv.{end}"] = torch.cat([getattr(part, end).detach() for part in parts])
        for theirs, ours in (("attn.proj", attention.out), ("norm1", layer.norm1), ("norm2", layer.norm2)):
            put(f"{name}.{theirs}", ours)
        put(f"{name}.mlp.fc1", layer.fc1)  # type: ignore[arg-type]
        put(f"{name}.mlp.fc2", layer.fc2)  # type: ignore[arg-type]
    found[f"{front}decoder.proj.weight"] = torch.zeros(3, 3)  # is thrown away
    return found


@pytest.mark.parametrize("prenet", [0, 1])
@pytest.mark.parametrize("kind", FAIRSEQ)
def test_fairseqs_names_are_ours(kind: str, prenet: int, tmp_path: Path) -> None:
    modality, shape = FAIRSEQ[kind]
    encoder = perturbed(Encoder(modality, shape))
    path = tmp_path / "model.safetensors"
    save_file({k: v.contiguous().clone() for k, v in as_fairseq(encoder, kind, prenet).items()}, path)
    back = from_fairseq(load_file(path), modality, shape)
    for (name, one), (_, other) in zip(encoder.state_dict().items(), back.state_dict().items(), strict=True):
        assert torch.equal(one, other), name


def test_fairseqs_weights_of_another_shape_are_refused() -> None:
    modality, shape = FAIRSEQ["IMAGE"]
    weights = as_fairseq(perturbed(Encoder(modality, shape)), "IMAGE", 0)
    with pytest.raises(ValueError, match="the checkpoint and the modality do not fit"):
        from_fairseq(weights, modality, replace(shape, layers=3))
