"""Heads and channels that are cut away: which, and that nothing else changes."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from tiny_trunk import SHAPE
from torch import Tensor, nn
from torch.nn import functional

from winnow.compress import bundle, integer, ledger, slicing
from winnow.compress.callbacks import Pruning
from winnow.compress.depth import shallower
from winnow.compress.export import to_onnx
from winnow.compress.fakequant import fake_quantize
from winnow.compress.patterns import Blocks
from winnow.compress.runtimes import OnnxRuntime, TorchRuntime
from winnow.compress.schedules import Polynomial
from winnow.compress.slicing import Importance, Kept, Slicing
from winnow.compress.sparsity import require_zeros
from winnow.data.batches import Batch
from winnow.data.vision import Vision
from winnow.ssl import model as models
from winnow.ssl.model import Classifier
from winnow.ssl.published.writing import to_huggingface
from winnow.ssl.shape import LayerSize, Shape, SlicedShape
from winnow.ssl.trunk import Encoder
from winnow.ssl.vit import TimmShape

FOUR = replace(SHAPE, heads=4)
SHAPES: dict[str, Shape] = {
    "post": FOUR,
    "pre": replace(FOUR, norm="pre", layer_scale=0.5, biases=("query", "value"), output_norm="pooled"),
    "a table for all layers": replace(FOUR, attention_bias="shared_table", extra_tokens=1),
    "a table for each layer": replace(FOUR, attention_bias="layer_table"),
    "alibi": replace(FOUR, attention_bias="alibi", extra_tokens=2),
}
KEPT = Kept(
    [torch.tensor([1, 3]), torch.tensor([0])],
    [torch.arange(0, 32, 3), torch.tensor([2, 5, 30, 31])],
)


def perturbed(shape: Shape) -> Classifier:
    """A classifier every weight of which matters."""
    model = tiny.classifier(0, shape)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    return model


def masked(encoder: Encoder, kept: Kept) -> None:
    """Let nobody read what is not kept."""
    with torch.no_grad():
        for layer, heads, channels in zip(encoder.layers, *kept, strict=True):
            out = layer.attention.out.weight.unflatten(1, (layer.attention.heads, -1))  # type: ignore
            out[:, [head for head in range(out.shape[1]) if head not in heads]] = 0
            fc2 = layer.fc2.weight  # type: ignore[union-attr]
            fc2[:, [channel for channel in range(fc2.shape[1]) if channel not in channels]] = 0


@pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))
def test_a_sliced_network_gives_what_the_whole_one_gives_without_the_rest(shape: Shape) -> None:
    model, x = perturbed(shape), tiny.samples(16).x
    found = slicing.cut(model.encoder, KEPT).embed(x)
    assert not torch.allclose(found, model.encoder.embed(x), atol=0.01)
    masked(model.encoder, KEPT)
    torch.testing.assert_close(found, model.encoder.embed(x), atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))
def test_slicing_twice_is_slicing_once(shape: Shape) -> None:
    encoder, x = perturbed(shape).encoder, tiny.samples(4).x
    once = slicing.cut(encoder, KEPT)
    first = Kept([torch.tensor([1, 2, 3]), torch.tensor([0, 2])], [torch.arange(32), KEPT.channels[1]])
    second = Kept([torch.tensor([0, 2]), torch.tensor([0])], [KEPT.channels[0], torch.arange(4)])
    twice = slicing.cut(slicing.cut(encoder, first), second)
    assert twice.shape == once.shape
    assert torch.equal(twice.embed(x), once.embed(x))


def test_what_is_cut_is_gone_from_all_shapes_and_the_whole_network_stays() -> None:
    encoder = perturbed(FOUR).encoder
    before = {name: weight.clone() for name, weight in encoder.state_dict().items()}
    small = slicing.cut(encoder, KEPT)
    first, last = small.layers
    assert first.attention.query.weight.shape == (8, 16) and last.attention.query.weight.shape == (4, 16)
    assert first.attention.out.weight.shape == (16, 8) and last.attention.out.weight.shape == (16, 4)
    assert first.fc1.bias.shape == (11,) and last.fc2.weight.shape == (16, 4)
    assert small.shape.sizes == (
        LayerSize(heads=(1, 3), channels=11),
        LayerSize(heads=(0,), channels=4),
    )
    assert all(torch.equal(weight, before[name]) for name, weight in encoder.state_dict().items())
    assert all(weight.requires_grad for weight in small.parameters())


@pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))
def test_a_sliced_network_comes_back_as_it_was_saved(shape: Shape, tmp_path: Path) -> None:
    model, x = perturbed(shape), tiny.samples(4).x
    model.encoder = slicing.cut(model.encoder, KEPT)
    models.save(model, tmp_path)
    back = models.load_classifier(tmp_path)
    assert back.encoder.shape == model.encoder.shape
    assert torch.equal(back(x), model(x))
    alone = shallower(back.encoder, [1])
    assert alone.shape.sizes == (LayerSize(heads=(0,), channels=4),)
    assert torch.equal(alone.layers[0].fc1.weight, back.encoder.layers[1].fc1.weight)


# --- what matters -------------------------------------------------------------------------------


def costs(model: Classifier) -> Any:
    return lambda batch: functional.cross_entropy(model(batch.x), batch.label, reduction="sum")


def batches(number: int, size: int) -> list[Batch]:
    samples = tiny.samples(number)
    return [Batch(*(part[start : start + size] for part in samples)) for start in range(0, number, size)]


def test_importance_is_the_mean_size_of_the_slope_of_each_samples_loss() -> None:
    """By finite differences: the loss of one sample with the weights that read a part made larger."""
    model = perturbed(FOUR).double().requires_grad_(False)
    found = slicing.taylor(model.encoder, costs(model), in_double(batches(3, 2)))
    for number, layer in enumerate(model.encoder.layers):
        readers = (
            (found.heads[number], layer.attention.out.weight, 4),
            (found.channels[number], layer.fc2.weight, 32),
        )
        for given, weight, parts in readers:
            for part in range(0, parts, max(parts // 4, 1)):
                column = weight.data.unflatten(1, (parts, -1))[:, part]
                whole, step, losses = column.clone(), 1e-4, []
                for scale in (1 + step, 1 - step):
                    column.copy_(scale * whole)
                    losses.append([float(costs(model)(one)) for one in in_double(batches(3, 1))])
                column.copy_(whole)
                slopes = [abs(up - down) / (2 * step) for up, down in zip(*losses, strict=True)]
                assert float(given[part]) == pytest.approx(sum(slopes) / 3, rel=1e-4, abs=1e-9)


def in_double(given: list[Batch]) -> list[Batch]:
    return [batch._replace(x=batch.x.double()) for batch in given]


def test_importance_depends_on_no_batching_and_leaves_no_trace() -> None:
    model = perturbed(FOUR).requires_grad_(False).train()
    one = slicing.taylor(model.encoder, costs(model), batches(12, 12))
    many = slicing.taylor(model.encoder, costs(model), batches(12, 5))
    for a, b in zip(one.heads + one.channels, many.heads + many.channels, strict=True):
        torch.testing.assert_close(a, b, atol=1e-7, rtol=1e-4)
    assert model.encoder.training
    assert not any(module._forward_pre_hooks for module in model.modules())
    with pytest.raises(ValueError, match="without a sample"):
        slicing.taylor(model.encoder, costs(model), [])


@pytest.mark.parametrize("score", ["taylor", "magnitude"])
def test_what_nobody_reads_matters_least(score: str) -> None:
    model = perturbed(FOUR)
    masked(model.encoder, KEPT)
    if score == "taylor":
        importance = slicing.taylor(model.encoder, costs(model), batches(8, 8))
        assert importance.heads[0][[0, 2]].tolist() == [0, 0]
    else:
        for layer, heads, channels in zip(model.encoder.layers, *KEPT, strict=True):
            for part in (layer.attention.query, layer.attention.key, layer.attention.value):
                part.weight.data.unflatten(0, (4, -1))[[h for h in range(4) if h not in heads]] = 0
            layer.fc1.weight.data[[c for c in range(32) if c not in channels]] = 0
        importance = slicing.magnitude(model.encoder)
    for number in (0, 1):
        for scores, kept in zip(importance, KEPT, strict=True):
            least = scores[number][kept[number]].min()
            rest = [i for i in range(len(scores[number])) if i not in kept[number]]
            assert float(scores[number][rest].max()) < float(least)


# --- the choice ---------------------------------------------------------------------------------


def by(scope: Any, multiple: int) -> Slicing:
    return Slicing(score="taylor", samples=8, scope=scope, multiple=multiple)


def drawn(heads: int = 6, channels: int = 40, layers: int = 3) -> Importance:
    torch.manual_seed(1)
    return Importance(
        [torch.rand(heads) * 4**layer for layer in range(layers)],
        [torch.rand(channels) * 4**layer for layer in range(layers)],
    )


@pytest.mark.parametrize("share", [0.01, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("multiple", [1, 4, 8])
def test_each_layer_keeps_the_same_share_of_its_best(share: float, multiple: int) -> None:
    importance = drawn()
    kept = slicing.choose(importance, by("layer", multiple), heads=share, channels=share)
    for layer in range(3):
        number = max(1, round(share * 6))
        assert kept.heads[layer].tolist() == sorted(best(importance.heads[layer], number))
        number = max(multiple, multiple * round(share * 40 / multiple))
        assert kept.channels[layer].tolist() == sorted(best(importance.channels[layer], number))


def best(scores: Tensor, number: int) -> list[int]:
    return sorted(range(len(scores)), key=lambda i: -float(scores[i]))[:number]


@pytest.mark.parametrize("multiple", [1, 8])
def test_over_all_layers_what_matters_most_is_kept_and_something_of_each(multiple: int) -> None:
    importance = drawn()
    kept = slicing.choose(importance, by("global", multiple), heads=0.5, channels=0.4)
    assert sum(map(len, kept.heads)) == 9 and sum(map(len, kept.channels)) == 48
    assert [len(heads) for heads in kept.heads] == [1, 2, 6]
    for scores, of_layers in zip(importance, kept, strict=True):
        for score, numbers in zip(scores, of_layers, strict=True):
            assert numbers.tolist() == sorted(best(score, len(numbers)))
    assert all(len(numbers) % multiple == 0 and len(numbers) > 0 for numbers in kept.channels)


def test_a_layer_that_the_multiple_does_not_divide_may_keep_all() -> None:
    importance = drawn(channels=10)
    for share, multiple, left in ((1.0, 4, 10), (0.5, 4, 8), (0.1, 16, 10)):
        kept = slicing.choose(importance, by("layer", multiple), heads=1.0, channels=share)
        assert [len(numbers) for numbers in kept.channels] == [left] * 3


@pytest.mark.parametrize("share", [0.0, 1.01, -1.0, float("nan")])
def test_a_share_that_cannot_be_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="channels must be a share above 0 and up to 1"):
        slicing.choose(drawn(), by("layer", 4), heads=0.5, channels=share)


def test_sliced_keeps_what_choose_says() -> None:
    encoder = perturbed(FOUR).encoder
    small = slicing.sliced(encoder, slicing.magnitude(encoder), by("layer", 8), heads=0.5, channels=0.5)
    assert [(len(size.heads), size.channels) for size in small.shape.sizes] == [(2, 16), (2, 16)]


# --- what follows -------------------------------------------------------------------------------


def test_a_sliced_network_is_taught_pruned_and_quantized_and_says_the_same_everywhere(tmp_path: Path) -> None:
    teacher, x = perturbed(SHAPES["pre"]), tiny.samples(32).x
    student = copy.deepcopy(teacher)
    importance = slicing.taylor(student.encoder, costs(student), batches(16, 16))
    student.encoder = slicing.sliced(student.encoder, importance, by("global", 4), heads=0.4, channels=0.5)
    models.save(student, tmp_path)

    pruning = Pruning(
        sparsity=0.5,
        schedule=Polynomial(begin=0.0, end=0.5, refresh=0.5, frequency=1, power=3.0, initial=0.0),
        pattern=Blocks(block=(1, 4), pooling="average"),
        network="student",
    )
    tiny.fit(tiny.taught(student, teacher), 4, pruning)
    require_zeros(student, pruning.keep)

    fake_quantize(student)
    student.train()(x)
    integers = integer.to_integers(student.eval())
    integer.require_zeros(integers, pruning.keep)
    integer.save(integers, tmp_path / "quantized.safetensors")
    to_onnx(integers, x, tmp_path / "model.onnx")
    bundle.write(tmp_path, {}, tmp_path / "model.winnow")

    wanted = TorchRuntime(integers)(x)
    found = TorchRuntime(bundle.load(tmp_path / "model.winnow").model)(x)
    assert np.array_equal(found.logits, wanted.logits)
    found = OnnxRuntime(tmp_path / "model.onnx", 1)(x)
    # Rounding ties that fall the other way move a value by steps of int8, no more.
    assert np.abs(found.logits - wanted.logits).max() < 0.05
    book = ledger.by_part(integers, tmp_path / "model.onnx", tmp_path / "model.winnow")
    assert sum(row["bundle"] for row in book.values()) == (tmp_path / "model.winnow").stat().st_size


# --- refusals -----------------------------------------------------------------------------------


def test_trunks_of_timm_and_quantized_ones_are_refused() -> None:
    options = {"embed_dim": 24, "num_heads": 3, "depth": 1}
    shape = TimmShape(timm="vit_tiny_patch16_224", options=options, weights=None, blocks=None)
    with pytest.raises(ValueError, match="timm's blocks cannot be cut"):
        slicing.magnitude(Encoder(Vision(size=8, patch=4, channels=1), shape))
    model: nn.Module = tiny.classifier()
    fake_quantize(model)
    with pytest.raises(ValueError, match="slice before quantizing"):
        slicing.cut(model.encoder, KEPT)  # type: ignore[arg-type]


def test_published_encoders_have_no_place_for_slices(tmp_path: Path) -> None:
    encoder = slicing.cut(perturbed(FOUR).encoder, KEPT)
    assert isinstance(encoder.shape, SlicedShape)
    with pytest.raises(ValueError, match=r"shape\.slices has no place in Hugging Face's encoders"):
        to_huggingface(encoder, tmp_path / "out")


@pytest.mark.parametrize("name", ["samples", "multiple"])
def test_settings_that_cannot_be_are_refused(name: str) -> None:
    settings: dict[str, Any] = {"score": "taylor", "samples": 8, "scope": "layer", "multiple": 8, name: 0}
    with pytest.raises(ValueError, match=f"slicing.{name} must be 1 at least, not 0"):
        Slicing(**settings)
