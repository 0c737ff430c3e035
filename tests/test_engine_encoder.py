from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from compiling import require_compiler
from scipy.special import erf
from tiny_trunk import SHAPE
from torch import Tensor, nn

from winnow.compress import integer
from winnow.compress.engine import plan, running
from winnow.compress.engine.classifier import EngineClassifier, read, tokens
from winnow.compress.engine.plan import Levels, Matrix, Norm
from winnow.compress.fakequant import Products, fake_quantize
from winnow.data.modality import Modality
from winnow.data.speech import Speech, Waveform
from winnow.data.text import Text
from winnow.data.vision import Vision
from winnow.ssl.model import Classifier
from winnow.ssl.positions import ConvolutionShape
from winnow.ssl.shape import LayerSize
from winnow.ssl.trunk import Encoder
from winnow.ssl.vit import TimmShape

require_compiler()
SETS = running.instructions()
each_set = pytest.mark.parametrize("instructions", SETS)
each_attention = pytest.mark.parametrize("attention", ["float", "int8"])
PRE = replace(SHAPE, norm="pre", layer_scale=0.5, biases=("query", "value"), output_norm="pooled")
SLICES = [LayerSize(heads=(1, 3), channels=10), LayerSize(heads=(2,), channels=24)]
SHAPES = {
    "post": SHAPE,
    "pre": PRE,
    "a table for all layers": replace(PRE, attention_bias="shared_table", extra_tokens=1),
    "a table for each layer": replace(SHAPE, attention_bias="layer_table", output_norm="token"),
    "alibi": replace(SHAPE, attention_bias="alibi", extra_tokens=2, position_norm=True),
    "convolutions": replace(SHAPE, convolutions=ConvolutionShape(layers=2, kernel=3, groups=4)),
    "sliced": replace(PRE, heads=4).cut(SLICES),
    "sliced, alibi": replace(SHAPE, heads=4, attention_bias="alibi", extra_tokens=1).cut(SLICES),
    "sliced, a table for each layer": replace(SHAPE, heads=4, attention_bias="layer_table").cut(SLICES),
}


def quantized(
    shape: Any = SHAPE,
    x: Tensor | None = None,
    modality: Modality | None = None,
    attention: Products = "float",
) -> tuple[Classifier, Tensor]:
    """Make an int8 classifier whose parts all matter, and samples that it knows the range of."""
    torch.manual_seed(0)
    model = tiny.classifier(0, shape)
    if modality is not None:
        model = Classifier(Encoder(modality, shape), tiny.CLASSES)
    tiny.sparsify(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "bias" in name or "norm" in name or "table" in name:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    fake_quantize(model, attention=attention)
    x = tiny.samples(70).x if x is None else x
    model.train()(x)
    return integer.to_integers(model.eval()), x


def apart(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).max() / np.abs(b).max())


@torch.no_grad()
def noise_floor(model: Classifier, x: Tensor) -> float:
    """Tell how far the model is from itself when numbers that lie between two levels go the other way."""
    before = model(x).numpy()
    torch.manual_seed(0)
    handles = [
        module.register_forward_pre_hook(
            lambda _, given: tuple(
                x * (1 + 1e-5 * torch.randn_like(x)) if isinstance(x, Tensor) and x.is_floating_point() else x
                for x in given
            )
        )
        for module in model.modules()
        if isinstance(module, integer.Integer | integer.IntegerMixing)
    ]
    floor = max(apart(model(x).numpy(), before) for _ in range(5))
    for handle in handles:
        handle.remove()
    return floor


@each_set
@each_attention
@pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))
def test_a_classifier_gives_what_it_gives_in_torch(
    shape: Any, attention: Products, instructions: str
) -> None:
    model, x = quantized(shape, attention=attention)
    engine = EngineClassifier(model, instructions=instructions)
    with torch.no_grad():
        expected = model(x).numpy()
    assert apart(engine(x).logits, expected) < 3 * noise_floor(model, x) + 1e-3
    np.testing.assert_array_equal(engine.logits(x, 16), engine.logits(x, 70))


@each_attention
def test_hidden_tokens_change_nothing(attention: Products) -> None:
    model, x = quantized(attention=attention)
    engine = running.load(read(model.encoder, model.head))
    made, _ = tokens(model.encoder, x)
    valid = np.random.default_rng(0).random(made.shape[:2]) < 0.5
    valid[:, 0] = True
    before, _ = engine.tokens(made, valid)
    after, _ = engine.tokens(np.where(valid[..., None], made, 1e3).astype(np.float32), valid)
    np.testing.assert_array_equal(after, before)
    with torch.no_grad():
        encoded = model.encoder.run(torch.from_numpy(made), torch.from_numpy(valid))
        expected = model.head(model.encoder.pooled(encoded)).numpy()
    assert apart(before, expected) < 3 * noise_floor(model, x) + 1e-3


def drawn_encoder(
    integers: bool, dim: int = 32, heads: int = 2, most: int = 700, **changed: Any
) -> plan.Encoder:
    """Draw an encoder without a head, whose attention is far from even."""
    drawn, dim = np.random.default_rng(3), 32

    def matrix(rows: int, columns: int, size: float, block: tuple[int, int] = (1, 4)) -> Matrix:
        keep = np.kron(drawn.random((rows // block[0], columns // block[1])) < 0.5, np.ones(block))
        weight = (drawn.integers(-127, 128, (rows, columns)) * keep).astype(np.int8)
        bias = drawn.integers(-500, 500, rows).astype(np.int32)
        scale = np.full(rows, size / np.sqrt(columns) / 60, np.float32)
        return Matrix(weight, scale, bias, Levels(0.03, 120))

    def norm() -> Norm:
        return Norm(*(drawn.normal(mean, 0.1, dim).astype(np.float32) for mean in (1, 0)))

    ends = (Levels(0.05, 131), Levels(0.04, 120), Levels(0.03, 125))
    layers = [
        plan.Layer(
            *(matrix(dim, dim, size) for size in (2.0, 2.0, 1.0, 1.0)),
            norm(),
            matrix(2 * dim, dim, 1.0),
            replace(matrix(dim, 2 * dim, 1.0), input=Levels(0.015, 12)),
            norm(),
            ends if integers else None,
        )
        for _ in range(2)
    ]
    settings = {"heads": 2, "tokens": most, "extra": 0, "pre_norm": False, "eps": 1e-5, "first": norm()}
    return plan.Encoder(**{**settings, "layers": layers, **changed})


def level(x: np.ndarray, to: Levels) -> np.ndarray:
    return (x / to.scale + to.zero_point).round().clip(0, 255)


def rounded(x: np.ndarray, to: Levels) -> np.ndarray:
    return (level(x, to) - to.zero_point) * to.scale


def in_numpy(encoder: plan.Encoder, x: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Run one sample through a post-norm encoder, in float64: what integer attention is."""

    def linear(m: Matrix, x: np.ndarray) -> np.ndarray:
        assert m.bias is not None
        sums = (level(x, m.input) - m.input.zero_point) @ m.weight.astype(float).T + m.bias
        return sums * m.scale * m.input.scale

    def normalized(norm: Norm, x: np.ndarray) -> np.ndarray:
        off = x - x.mean(1, keepdims=True)
        return off / np.sqrt((off**2).mean(1, keepdims=True) + encoder.eps) * norm.gain + norm.shift

    if encoder.first is not None:
        x = normalized(encoder.first, x)
    for layer in encoder.layers:
        q, k, v = (linear(m, x) for m in (layer.query, layer.key, layer.value))
        if layer.levels is not None:
            q, k, v = (rounded(y, to) for y, to in zip((q, k, v), layer.levels, strict=True))
        mixed = []
        for q_, k_, v_ in zip(*(np.split(y, encoder.heads, 1) for y in (q, k, v)), strict=True):
            scores = np.where(valid, q_ @ k_.T / np.sqrt(q_.shape[1]), -np.inf)
            share = np.exp(scores - scores.max(1, keepdims=True))
            if layer.levels is not None:  # of the largest, which is 255
                share = (share * 255).round()
            mixed.append(share / share.sum(1, keepdims=True) @ v_)
        x = normalized(layer.norm1, x + linear(layer.out, np.concatenate(mixed, 1)))
        wide = linear(layer.fc1, x)
        x = normalized(layer.norm2, x + linear(layer.fc2, wide * (1 + erf(wide / np.sqrt(2))) / 2))
    return x


@each_set
@pytest.mark.parametrize("integers", [True, False])
@pytest.mark.parametrize("count", [1, 5, 64, 130])
def test_attention_of_integers_is_as_it_is_defined(integers: bool, count: int, instructions: str) -> None:
    encoder = drawn_encoder(integers)
    drawn = np.random.default_rng(count)
    x = drawn.normal(size=(3, count, encoder.dim)).astype(np.float32)
    valid = drawn.random((3, count)) < 0.7
    valid[:, 0] = True
    found = running.load(encoder, instructions=instructions).tokens(x, valid)[0]
    expected = np.stack([in_numpy(encoder, *one) for one in zip(x.astype(float), valid, strict=True)])
    # Where a number lies between two levels, float32 and float64 may take different ones.
    assert np.quantile(np.abs(found - expected), 0.5) < 2e-3
    assert np.abs(found - expected).mean() < 1e-2


@pytest.mark.parametrize("integers", [True, False])
def test_a_long_sequence_is_as_it_is_defined(integers: bool) -> None:
    encoder = drawn_encoder(integers)
    x = np.random.default_rng(0).normal(size=(1, 700, encoder.dim)).astype(np.float32)
    found = running.load(encoder).tokens(x, np.ones((1, 700), bool))[0]
    expected = in_numpy(encoder, x[0].astype(float), np.ones(700, bool))
    assert np.abs(found[0] - expected).mean() < 1e-2


@pytest.mark.parametrize("integers", [True, False])
@pytest.mark.parametrize("count", [3, 50, 200])
def test_threads_and_neighbours_in_a_batch_change_nothing(integers: bool, count: int) -> None:
    encoder = drawn_encoder(integers)
    drawn = np.random.default_rng(0)
    x = drawn.normal(size=(5, count, encoder.dim)).astype(np.float32)
    valid = drawn.random((5, count)) < 0.8
    valid[:, 0] = True
    one, two = running.load(encoder, threads=1), running.load(encoder, threads=2)
    together = one.tokens(x, valid)[0]
    np.testing.assert_array_equal(two.tokens(x, valid)[0], together)
    for sample in range(5):
        alone, _ = one.tokens(x[sample : sample + 1], valid[sample : sample + 1])
        np.testing.assert_array_equal(alone[0], together[sample])


@pytest.mark.parametrize("block", [plan.DENSE, *plan.BLOCKS])
def test_blocks_change_nothing(block: int) -> None:
    encoder = drawn_encoder(integers=True)
    x = np.random.default_rng(0).normal(size=(2, 33, encoder.dim)).astype(np.float32)
    valid = np.ones((2, 33), bool)
    found = running.Engine(plan.write(encoder, block)).tokens(x, valid)[0]
    np.testing.assert_array_equal(found, running.load(encoder).tokens(x, valid)[0])


def test_what_does_not_fit_is_refused() -> None:
    encoder = drawn_encoder(integers=True, most=8)
    engine = running.load(encoder)
    with pytest.raises(ValueError, match="too many tokens"):
        engine.tokens(np.zeros((1, 9, encoder.dim), np.float32), np.ones((1, 9), bool))
    with pytest.raises(ValueError, match="the input has another size"):
        engine.tokens(np.zeros((1, 8, 16), np.float32), np.ones((1, 8), bool))
    with pytest.raises(ValueError, match="int8 layers, not Linear"):
        read(tiny.classifier().encoder, nn.Linear(16, 3))
    with pytest.raises(ValueError, match="in all layers, or in none"):
        mixed = [encoder.layers[0], replace(encoder.layers[1], levels=None)]
        plan.write(replace(encoder, layers=mixed))


def tokens_apart(model: Classifier, x: Tensor) -> None:
    """Compare a frontend in the engine with the same in torch."""
    engine = EngineClassifier(model)
    assert engine.rows is not None
    in_torch = running.load(read(model.encoder, model.head))
    for one, other in zip(engine(x), in_torch.tokens(*tokens(model.encoder, x)), strict=True):
        assert apart(one, other) < 3 * noise_floor(model, x) + 1e-3
    with torch.no_grad():
        pooled = model.encoder.pooled(model.encoder(x)).numpy()
    assert apart(engine(x).embedding, pooled) < 3 * noise_floor(model, x) + 1e-3
    for number in (0, len(x) - 1):
        np.testing.assert_array_equal(engine(x[number : number + 1]).logits[0], engine(x).logits[number])


@each_attention
@pytest.mark.parametrize("extra", [0, 2])
def test_patches_are_cut_as_a_convolution_does(extra: int, attention: Products) -> None:
    model, x = quantized(replace(SHAPE, extra_tokens=extra, position_norm=True), attention=attention)
    tokens_apart(model, x)


@each_attention
@pytest.mark.parametrize("extra", [0, 2])
def test_frames_of_padding_are_no_tokens(extra: int, attention: Products) -> None:
    modality = Speech(sample_rate_hz=8000, seconds=0.5, mels=15, frames_per_token=3)
    x = torch.randn(20, modality.frames, 15, generator=torch.Generator().manual_seed(0))
    for sample, length in enumerate(torch.linspace(0, modality.frames, 20).int().tolist()):
        x[sample, length:] = 0
    tokens_apart(quantized(replace(SHAPE, extra_tokens=extra), x, modality, attention)[0], x)


@each_attention
@pytest.mark.parametrize("extra", [0, 2])
def test_ids_of_padding_are_no_tokens(extra: int, attention: Products) -> None:
    modality = Text(length=11, vocabulary=50)
    x = torch.randint(0, 50, (20, 11), generator=torch.Generator().manual_seed(0))
    x[3, 4:], x[4] = 0, 0
    shape = replace(SHAPE, positions="learned", extra_tokens=extra)
    model, _ = quantized(shape, x, modality, attention)
    tokens_apart(model, x)
    x[0, 0] = 50
    with pytest.raises(ValueError, match="an id is out of bounds"):
        EngineClassifier(model)(x)


def test_texts_may_be_shorter_than_the_longest() -> None:
    x = torch.randint(1, 50, (9, 11), generator=torch.Generator().manual_seed(0))
    shape = replace(SHAPE, positions="none", extra_tokens=1)
    model, _ = quantized(shape, x=x, modality=Text(length=11, vocabulary=50))
    engine = EngineClassifier(model)
    for length in (1, 4, 11):
        with torch.no_grad():
            expected = model(x[:, :length]).numpy()
        assert apart(engine(x[:, :length]).logits, expected) < 3 * noise_floor(model, x) + 1e-3


def test_other_frontends_run_in_torch() -> None:
    modality = Waveform(sample_rate_hz=800, seconds=0.5, convolutions=[[8, 10, 5], [8, 4, 4]])
    x = torch.randn(20, modality.length, generator=torch.Generator().manual_seed(0))
    model, _ = quantized(x=x, modality=modality)
    engine = EngineClassifier(model)
    assert engine.rows is None
    with torch.no_grad():
        assert apart(engine(x).logits, model(x).numpy()) < 3 * noise_floor(model, x) + 1e-3


def test_trunks_of_timm_are_refused() -> None:
    options = {"embed_dim": 24, "num_heads": 3, "depth": 1}
    shape = TimmShape(timm="vit_tiny_patch16_224", options=options, weights=None, blocks=None)
    encoder = Encoder(Vision(size=8, patch=4, channels=1), shape)
    with pytest.raises(ValueError, match="not timm's vit_tiny_patch16_224"):
        EngineClassifier(Classifier(encoder, tiny.CLASSES))
