import json
from pathlib import Path
from typing import Any

import pytest
import timm
import tiny
import torch
import yaml
from conftest import KINDS
from runs import PRETRAIN, changed, command_line, run_finetune, run_pretrain
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from winnow.compress import fakequant, integer
from winnow.compress.depth import shallower
from winnow.compress.export import to_onnx
from winnow.compress.runtimes import OnnxRuntime, logits
from winnow.compress.sparsity import prunable
from winnow.data import store
from winnow.data.modality import Modality, build
from winnow.data.vision import Vision
from winnow.ssl import embed, pretrain
from winnow.ssl import model as models
from winnow.ssl.classification import depth
from winnow.ssl.data2vec import Data2Vec
from winnow.ssl.model import Classifier
from winnow.ssl.published.writing import to_huggingface
from winnow.ssl.tokens import gather_tokens
from winnow.ssl.trunk import Encoder, set_dropout
from winnow.ssl.vit import TimmShape

IMAGES = pytest.mark.parametrize("kind", [KINDS[0]], ids=["vision"], indirect=True)
SMALL: dict[str, Any] = {"depth": 3, "embed_dim": 32, "num_heads": 2}
# Each has something that the others have not.
MODELS: dict[str, dict[str, Any]] = {
    "vit_tiny_patch16_224": {},
    "vit_small_patch14_reg4_dinov2": {},  # registers without positions, LayerScale
    "vit_base_patch32_clip_quickgelu_224": {},  # a norm in front
    "vit_small_patch16_36x1_224": {"qk_norm": True, "norm_layer": "rmsnorm", "attn_layer": "diff"},
    "vit_small_patch16_18x2_224": {},  # two attentions side by side, and two feed-forward parts
    "vit_base_patch16_rpn_224": {},  # post-norm, no class token
    "vit_base_patch16_gap_224": {"pos_embed": "none"},
    "vit_base_patch16_siglip_224": {},  # pooled by attention
    "vit_pwee_patch16_reg1_gap_256": {},  # attention and feed-forward part beside each other
    "vit_dpwee_patch16_reg1_gap_256": {},  # the two in one product
    "deit_tiny_distilled_patch16_224": {},
    "eva02_tiny_patch14_224": {},  # rotated queries and keys, gated feed-forward part
    "vit_small_patch16_rope_mixed_224": {},  # each layer by its own angles, which it learns
    "vit_small_patch16_dinov3": {},
}
EVERY = pytest.mark.parametrize("name", MODELS)


def shape(name: str = "vit_tiny_patch16_224", **changes: Any) -> TimmShape:
    options = {**SMALL, **MODELS.get(name, {}), **changes.pop("options", {})}
    return TimmShape(**{"timm": name, "options": options, "weights": None, "blocks": None, **changes})


def section(**changes: Any) -> dict[str, Any]:
    return {"timm": "vit_tiny_patch16_224", "options": SMALL, "weights": None, "blocks": None, **changes}


def theirs(name: str, path: Path, **changes: Any) -> Any:
    """timm's own model, every weight moved from where it starts, and its file."""
    torch.manual_seed(0)
    sizes = {"img_size": 16, "patch_size": 4, "in_chans": 3, **changes}
    model = timm.create_model(name, **sizes, **SMALL, **MODELS.get(name, {})).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * torch.randn_like(weight)
    save_file(model.state_dict(), path)
    return model


def ours(name: str, path: Path, **changes: Any) -> Encoder:
    return Encoder(Vision(size=16, patch=4, channels=3), shape(name, weights=path, **changes)).eval()


def images(number: int = 2, channels: int = 3, size: int = 16) -> Tensor:
    return torch.randn(number, channels, size, size, generator=torch.Generator().manual_seed(1))


@EVERY
def test_gives_what_timm_gives_with_its_layers_and_their_feed_forward_parts(
    name: str, tmp_path: Path
) -> None:
    model = theirs(name, tmp_path / "a.safetensors")
    encoder, x = ours(name, tmp_path / "a.safetensors"), images()
    layers: list[Tensor] = []
    parts: list[Tensor] = []
    for block in model.blocks:
        block.register_forward_hook(lambda module, given, out: layers.append(out))
        found = [m for n, m in block.named_modules() if n.endswith(("mlp", "mlp_out_proj"))]
        for part in found or [block.out_proj]:
            part.register_forward_hook(lambda module, given, out: parts.append(out))
    wanted, encoded = model.forward_features(x), encoder(x)
    extra = encoder.extra_tokens
    assert extra == model.num_prefix_tokens
    torch.testing.assert_close(torch.cat([encoded.extra, encoded.out], 1), wanted, atol=1e-5, rtol=0)
    each = len(parts) // len(layers)
    assert len(encoded.hidden) == len(encoded.taps) == 3
    for number, (hidden, tap) in enumerate(zip(encoded.hidden, encoded.taps, strict=True)):
        torch.testing.assert_close(hidden, layers[number][:, extra:], atol=1e-5, rtol=0)
        own = torch.stack(parts[number * each : (number + 1) * each]).sum(0)
        torch.testing.assert_close(tap, own[:, extra:], atol=1e-5, rtol=0)
    assert not any(module._forward_hooks for module in encoder.modules())


@EVERY
def test_hidden_tokens_are_as_if_they_were_not_there(name: str, tmp_path: Path) -> None:
    """Left out, they change nothing; where nothing is hidden, all of the model is what runs."""
    theirs(name, tmp_path / "a.safetensors")
    encoder, x = ours(name, tmp_path / "a.safetensors"), images()
    located = encoder.located(encoder.frontend(x))
    everything = encoder.run(*located, torch.arange(16).expand(2, 16))
    torch.testing.assert_close(everything.out, encoder(x).out, atol=1e-5, rtol=0)
    shown = torch.tensor([[True, False] * 8, [False, False, True, True] * 4])
    left, masked = encoder.run(*gather_tokens(located.x, shown)), encoder.run(located.x, shown)
    for a, b in zip(
        (*left.hidden, *left.taps, left.out), (*masked.hidden, *masked.taps, masked.out), strict=True
    ):
        torch.testing.assert_close(a, b[shown].unflatten(0, (2, 8)), atol=1e-5, rtol=0)
    assert not torch.allclose(left.out, everything.out[shown].unflatten(0, (2, 8)), atol=1e-3)


@EVERY
def test_every_weight_learns_and_is_saved(name: str, tmp_path: Path) -> None:
    encoder = Encoder(Vision(size=16, patch=4, channels=3), shape(name)).train()
    classifier = Classifier(encoder, ["a", "b"])
    encoded = encoder(images())
    (classifier(images()).square().sum() + encoded.extra.square().sum()).backward()
    still = {name for name, weight in classifier.named_parameters() if weight.grad is None}
    assert not still
    models.save(classifier.eval(), tmp_path)
    again = models.load_classifier(tmp_path)
    assert again.encoder.shape == encoder.shape
    assert torch.equal(again(images()), classifier(images()))


def test_positions_patches_and_channels_of_other_sizes_are_resampled(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    model = theirs("vit_tiny_patch16_224", path, img_size=32, patch_size=8)
    grey = Encoder(Vision(size=24, patch=4, channels=1), shape(weights=path))
    assert grey.positions is not None and grey.positions.shape == (36, 32)
    assert grey.frontend.embed.proj.weight.shape == (32, 1, 4, 4)
    # A constant is the same at any size.
    with torch.no_grad():
        model.pos_embed[:, 1:] = 0.5
        model.patch_embed.proj.weight.fill_(0.25)
    save_file(model.state_dict(), path)
    grey = Encoder(Vision(size=24, patch=4, channels=1), shape(weights=path))
    torch.testing.assert_close(grey.positions, torch.full((36, 32), 0.5))
    flat = torch.ones(1, 1, 24, 24)
    torch.testing.assert_close(
        grey.frontend(flat).x[0, 0], model.patch_embed(torch.ones(1, 3, 32, 32))[0, 0], atol=0, rtol=0.03
    )


def test_blocks_that_are_left_out_leave_the_others_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    theirs("vit_small_patch16_rope_mixed_224", path)
    whole = ours("vit_small_patch16_rope_mixed_224", path)
    some = ours("vit_small_patch16_rope_mixed_224", path, blocks=(0, 2))
    student = shallower(whole, [0, 2])
    assert student.shape == some.shape
    assert torch.equal(student.eval().embed(images()), some.embed(images()))
    assert some.shape.keeping([1]).blocks == (2,)


def test_an_untrained_twin_starts_at_random_and_needs_no_file(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    theirs("vit_tiny_patch16_224", path)
    encoder = ours("vit_tiny_patch16_224", path)
    path.unlink()
    twin = Encoder(encoder.modality, encoder.shape)
    assert not torch.equal(twin.layers[0].block.mlp.fc1.weight, encoder.layers[0].block.mlp.fc1.weight)


def test_a_layers_place_and_dropout_are_known(tmp_path: Path) -> None:
    encoder = Encoder(Vision(size=16, patch=4, channels=3), shape("vit_small_patch16_rope_mixed_224"))
    deep = {depth(name, encoder) for name in ("frontend.embed.proj.weight", "extra", "positions")}
    assert deep == {0}
    assert depth("layers.1.block.attn.qkv.weight", encoder) == 2
    assert depth("relative.0.rope.freqs", encoder) == depth("output_norm.weight", encoder) == 4
    set_dropout(encoder, 0.3)
    drops = {n: m.p for n, m in encoder.layers.named_modules() if isinstance(m, nn.Dropout)}
    assert {p for n, p in drops.items() if not n.endswith("attn_drop")} == {0.3}
    assert {p for n, p in drops.items() if n.endswith("attn_drop")} == {0.0}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"timm": "vit_of_nobody"}, "timm has no model of this name"),
        ({"timm": "resnet18"}, "embed_dim"),
        ({"timm": "swin_tiny_patch4_window7_224", "options": {}}, "it is a SwinTransformer"),
        ({"timm": "vit_tiny_r_s16_p8_224"}, "made by a HybridEmbed"),
        ({"options": {"patch_drop_rate": 0.1}}, "patch_drop_rate"),
        ({"options": {"pretrained": True}}, "cannot name pretrained: .* nothing is downloaded"),
        ({"options": {"img_size": 32}}, "sizes are the modality's"),
        ({"options": {"num_heads": 5}}, "divisible"),
        ({"options": {"heads": 5}}, "unexpected keyword argument 'heads'"),
        ({"blocks": (0, 3)}, "within 0 to 2"),
        ({"weights": Path("a.pth")}, "other formats can run code"),
    ],
)
def test_says_what_cannot_be_the_trunk(changes: dict[str, Any], said: str) -> None:
    made = shape(**changes)
    if changes.get("options") == {}:
        made = TimmShape(timm=made.timm, options={}, weights=None, blocks=None)
    with pytest.raises(ValueError, match=said):
        Encoder(Vision(size=32, patch=8, channels=3), made)


def test_says_that_only_images_have_such_a_trunk() -> None:
    for kind in KINDS[1:]:
        with pytest.raises(ValueError, match="give shape the keys dim, layers"):
            Encoder(build(kind.section), shape())


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    theirs("vit_tiny_patch16_224", path)
    with pytest.raises(ValueError, match=r"(?s)do not fit: .*q_norm"):
        Encoder(Vision(size=16, patch=4, channels=3), shape(weights=path, options={"qk_norm": True}))
    save_file({**load_file(path), "blocks.3.norm1.weight": torch.ones(32)}, path)
    with pytest.raises(ValueError, match=r"holds blocks\.3\.norm1\.weight"):
        ours("vit_tiny_patch16_224", path)
    with pytest.raises(ValueError, match="are timm's"):
        to_huggingface(Encoder(Vision(size=16, patch=4, channels=3), shape()), tmp_path / "out")


def test_int8_and_onnx_do_what_the_network_does(tmp_path: Path) -> None:
    torch.manual_seed(0)
    made = shape("eva02_tiny_patch14_224", options={"depth": 1})
    classifier = Classifier(Encoder(Vision(size=8, patch=4, channels=1), made), tiny.CLASSES).eval()
    x, names = tiny.samples(64).x, set(prunable(classifier))
    wanted = classifier(x).detach()
    linear = [name for name, module in classifier.named_modules() if isinstance(module, nn.Linear)]
    assert names == {f"{name}.weight" for name in linear if name != "head"}
    assert fakequant.fake_quantize(classifier) == len(linear) + 1
    classifier.train()(x)
    integers = integer.to_integers(classifier.eval())
    to_onnx(integers, x, tmp_path / "model.onnx")
    given = torch.from_numpy(logits(OnnxRuntime(tmp_path / "model.onnx", 1), x, 32))
    torch.testing.assert_close(given, integers(x), atol=1e-2, rtol=0)
    assert float((given - wanted).abs().max()) < 0.1 * float(wanted.std())


@IMAGES
def test_pretrains_embeds_and_finetunes(
    modality: Modality, ingested: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["stage"])
    made = section(timm="vit_small_patch16_dinov3", blocks=[0, 2])
    pretrained = run_pretrain(modality, ingested, tmp_path / "a", model__shape=made, model__loss__extra=0.1)
    encoder = models.load_encoder(pretrained)
    assert isinstance(encoder.shape, TimmShape) and len(encoder.layers) == 2
    torch.manual_seed(0)
    start = dict(Encoder(modality, encoder.shape).named_parameters())
    for name, weight in encoder.named_parameters():
        assert not torch.equal(weight, start[name]), name
    embed.main(modality, ingested, pretrained, tmp_path, batch_size=32, seed=0, threads=1)
    ids = list(store.read_table(ingested / "manifest.parquet")["id"])
    assert store.read_vectors(tmp_path / "embeddings", ids).shape == (len(ids), 64)
    tuned = run_finetune(
        modality, ingested, pretrained, tmp_path / "b", model__layer_decay=0.7, model__freeze=0.2
    )
    classifier = models.load_classifier(tuned)
    assert not torch.equal(
        classifier.encoder.layers[0].block.mlp.fc1.weight, encoder.layers[0].block.mlp.fc1.weight
    )


@IMAGES
def test_the_command_line_takes_the_name_of_a_model(
    modality: Modality, ingested: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    settings = changed(PRETRAIN, model__shape=section(), model__masking__block=[3, 3])
    config = {
        "model": settings["model"],
        "data": {
            "modality": models.section(modality),
            "ingest": str(ingested),
            "labels": str(ingested),
            "labelled": False,
            **settings["data"],
        },
        "trainer": {"max_steps": 2, "limit_val_batches": 0, "accelerator": "cpu"},
        "seed_everything": 0,
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.chdir(tmp_path)
    words = ["fit", "--config", "config.yaml"]
    narrow = section(options={**SMALL, "embed_dim": 16})
    command_line(monkeypatch, pretrain, Data2Vec, *words, "--model.shape", json.dumps(narrow))
    left = models.load_encoder(tmp_path / "logs/data2vec/model")
    assert left.dim == 16 and isinstance(left.shape, TimmShape)
    del config["model"]["shape"]["options"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(SystemExit):
        command_line(monkeypatch, pretrain, Data2Vec, *words)
    assert "options" in capsys.readouterr().err
