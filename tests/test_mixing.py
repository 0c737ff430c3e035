from dataclasses import asdict

import numpy as np
import pytest
import tiny
import torch
from tiny_trunk import SHAPE
from torch import Tensor, nn

from winnow.compress import fakequant, integer
from winnow.compress.fakequant import FakeQuantizedMixing, Observer
from winnow.compress.integer import IntegerMixing
from winnow.ssl import model as models
from winnow.ssl.mixing import Mixing

SIZE = (3, 2, 9, 8)  # samples, heads, tokens, channels


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def padding() -> Tensor:
    valid = torch.arange(SIZE[2]) < torch.tensor([9, 4, 1])[:, None]
    return valid[:, None, None, :]


ALLOWED = {
    "all": None,
    "padding": padding(),
    "a bias": numbers(1, *SIZE[1:3], SIZE[2], seed=5),
    "a bias and padding": numbers(1, *SIZE[1:3], SIZE[2], seed=5).masked_fill(~padding(), -torch.inf),
}
each_allowed = pytest.mark.parametrize("allowed", ALLOWED.values(), ids=list(ALLOWED))


def drawn(tokens: int = SIZE[2]) -> tuple[Tensor, Tensor, Tensor]:
    """Draw query, key and value, whose ranges are neither alike nor even around zero."""
    q, k, v = (numbers(*SIZE[:2], tokens, SIZE[3], seed=seed) for seed in range(3))
    return 2 * q + 0.5, k - 0.3, 0.7 * v + 1


def observed(*given: Tensor) -> FakeQuantizedMixing:
    fake = FakeQuantizedMixing(Mixing(dropout=0.0))
    fake(*given, None)
    return fake.eval()


def added(allowed: Tensor | None) -> np.ndarray:
    if allowed is None:
        return np.zeros(())
    bias = torch.where(allowed, 0.0, -torch.inf) if allowed.dtype == torch.bool else allowed
    return bias.double().numpy()


@each_allowed
def test_values_are_mixed_by_the_softmax_of_scores(allowed: Tensor | None) -> None:
    given = drawn()
    q, k, v = (x.double().numpy() for x in given)
    shares = np.exp(q @ k.swapaxes(2, 3) / np.sqrt(SIZE[3]) + added(allowed))
    expected = shares / shares.sum(-1, keepdims=True) @ v
    assert np.allclose(Mixing(dropout=0.0)(*given, allowed).numpy(), expected, atol=1e-5)


@each_allowed
def test_in_int8_it_is_made_of_whole_numbers(allowed: Tensor | None) -> None:
    given = drawn()
    fake = observed(*given)
    exact = IntegerMixing(fake)
    levels = [
        (np.rint(x.double().numpy() / float(scale)) + int(zero)).clip(0, 255).astype(int) - int(zero)
        for x, scale, zero in zip(
            given,
            (exact.query_scale, exact.key_scale, exact.value_scale),
            (exact.query_zero_point, exact.key_zero_point, exact.value_zero_point),
            strict=True,
        )
    ]
    step = float(exact.query_scale) * float(exact.key_scale) / np.sqrt(SIZE[3])
    scores = levels[0] @ levels[1].swapaxes(2, 3) * step + added(allowed)
    shares = np.rint(255 * np.exp(scores - scores.max(-1, keepdims=True))).astype(int)
    assert shares.max() == 255
    expected = shares @ levels[2] * float(exact.value_scale) / shares.sum(-1, keepdims=True)
    for found in (fake(*given, allowed), exact(*given, allowed)):
        # A share in the middle between two steps may fall on either side.
        error = np.abs(found.numpy() - expected)
        assert error.max() < 0.02
        assert (error < 1e-5).mean() > 0.95
    close = Mixing(dropout=0.0)(*given, allowed)
    assert float((exact(*given, allowed) - close).abs().max()) < 0.05


@each_allowed
def test_gradients_are_those_of_softmax(allowed: Tensor | None) -> None:
    given = drawn()
    fake, gradients = observed(*given), []
    for mixing in (fake, Mixing(dropout=0.0)):
        leaves = [x.clone().requires_grad_() for x in given]
        (mixing(*leaves, allowed) * numbers(*SIZE, seed=9)).sum().backward()
        gradients.append([leaf.grad for leaf in leaves])
    for found, expected in zip(*gradients, strict=True):
        assert float((found - expected).norm()) < 0.03 * float(expected.norm())


def test_what_is_hidden_changes_nothing() -> None:
    q, k, v = drawn()
    fake, hidden = observed(q, k, v), ~padding()[:, 0, 0, :][:, None, :, None]
    for mixing in (fake, IntegerMixing(fake)):
        before = mixing(q, k, v, padding())
        after = mixing(q, k.masked_fill(hidden, 1e3), v.masked_fill(hidden, 1e3), padding())
        assert torch.equal(after, before)


def test_in_a_long_sequence_small_shares_count() -> None:
    q, k, v = (numbers(1, 1, 2000, 4, seed=seed) for seed in range(3))
    fake = observed(0.01 * q, 0.01 * k, v)  # all shares are about 1/2000, far below 1/255
    for mixing in (fake, IntegerMixing(fake)):
        assert torch.allclose(mixing(0.01 * q, 0.01 * k, v, None), v.mean(2, keepdim=True), atol=0.02)


def test_dropout_hides_tokens_while_training_only() -> None:
    given = drawn()
    for mixing in (Mixing(dropout=0.5), FakeQuantizedMixing(Mixing(dropout=0.5))):
        mixing.train()(*given, None)
        fakequant.freeze(mixing)
        torch.manual_seed(0)
        first = mixing(*given, None)
        assert not torch.equal(mixing(*given, None), first)
        assert torch.equal(mixing.eval()(*given, None), mixing(*given, None))
        mean = torch.stack([mixing.train()(*given, None) for _ in range(600)]).mean(0)
        assert float((mean - mixing.eval()(*given, None)).abs().mean()) < 0.05


def quantized() -> models.Classifier:
    model = tiny.classifier()
    fakequant.fake_quantize(model, attention="int8")
    model.train()(tiny.samples(64).x)
    return model.eval()


def test_a_classifier_has_it_in_every_layer_and_its_float_weights_keep_names() -> None:
    model, names = tiny.classifier(), set(tiny.classifier().state_dict())
    assert fakequant.fake_quantize(model, attention="int8") == 1 + 2 * 7 + 1
    assert set(fakequant.master_weights(model)) == names
    with pytest.raises(ValueError, match=r"encoder\.frontend\.project was never observed"):
        integer.to_integers(model)
    assert integer.count(integer.to_integers(quantized())) == (14, 14, 0, 2)


def test_the_integer_classifier_does_what_the_fake_quantized_one_does() -> None:
    model, x = quantized(), tiny.samples(64, seed=3).x
    with torch.no_grad():
        difference = (integer.to_integers(model)(x) - model(x)).abs()
    assert float(difference.max()) < 0.02 and float(difference.median()) < 1e-4


def test_the_file_says_what_attention_multiplies() -> None:
    integers, x = integer.to_integers(quantized()), tiny.samples(8).x
    config = {
        "modality": models.section(integers.encoder.modality),
        "shape": asdict(SHAPE),
        "classes": integers.classes,
    }
    tensors = integers.state_dict()
    assert torch.equal(integer.build(config, tensors)(x), integers(x))
    lacking = {name: t for name, t in tensors.items() if not name.endswith("1.attention.mixing.key_scale")}
    with pytest.raises(ValueError, match=r"layers\.1\.attention\.mixing\.key_scale is missing"):
        integer.build(config, lacking)


def test_another_network_s_attention_is_refused_and_not_left_in_float() -> None:
    with pytest.raises(ValueError, match="set attention to float"):
        fakequant.fake_quantize(nn.Sequential(nn.Linear(3, 3)), attention="int8")


def test_no_range_is_learned_of_what_was_not_seen() -> None:
    model = quantized()
    seen = [module for module in model.modules() if isinstance(module, Observer)]
    assert len(seen) == 14 + 2 * 3 and all(observer.seen for observer in seen)
