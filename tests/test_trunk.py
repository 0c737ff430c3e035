import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import naive
import pytest
import torch
from tiny_trunk import SHAPE, encoder, some_samples, vision
from torch import Tensor
from torch.nn import functional

from winnow.data.modality import Modality, Tokens
from winnow.ssl.positions import ConvolutionShape, alibi_slopes, sincos_positions
from winnow.ssl.shape import LayerSize, Shape
from winnow.ssl.tokens import gather_tokens
from winnow.ssl.trunk import Attention, Encoder, Layer, set_dropout

# --- attention and layers -----------------------------------------------------------------------


def test_attention_agrees_with_a_loop_over_samples_heads_and_tokens() -> None:
    torch.manual_seed(0)
    attention = Attention(SHAPE).eval()
    x = torch.randn(3, 5, 16)
    valid = torch.arange(5) < torch.tensor([5, 3, 1])[:, None]
    given = attention(x, valid[:, None, None])

    width = 16 // SHAPE.heads
    for i in range(3):
        q, k, v = (p(x[i]) for p in (attention.query, attention.key, attention.value))
        for here in range(5):
            mixed = torch.zeros(16)
            for head in range(SHAPE.heads):
                part = slice(head * width, (head + 1) * width)
                seen = [there for there in range(5) if valid[i, there]]
                score = torch.stack([q[here, part] @ k[j, part] / math.sqrt(width) for j in seen])
                weight = score.exp() / score.exp().sum()
                mixed[part] = sum(w * v[j, part] for w, j in zip(weight, seen, strict=True))
            wanted = attention.out(mixed)
            torch.testing.assert_close(given[i, here], wanted, atol=1e-5, rtol=1e-5)


def test_under_mixed_precision_a_cpu_multiplies_weights_in_16_bits_and_attends_in_32() -> None:
    torch.manual_seed(0)
    attention, x = Attention(SHAPE).eval(), torch.randn(3, 5, 16)
    parts = (attention.query, attention.key, attention.value)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        given = attention(x)
        q, k, v = (p(x).unflatten(-1, (SHAPE.heads, -1)).transpose(1, 2) for p in parts)
    assert q.dtype == given.dtype == torch.bfloat16
    mixed = functional.scaled_dot_product_attention(q.float(), k.float(), v.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(given, attention.out(mixed.transpose(1, 2).flatten(2)))


def test_a_layer_is_post_norm_and_its_tap_stands_before_the_residual() -> None:
    torch.manual_seed(0)
    layer, x = Layer(SHAPE, 0.0).eval(), torch.randn(2, 4, 16)
    y, tap = layer(x)
    middle = functional.layer_norm(x + layer.attention(x), (16,), layer.norm1.weight, layer.norm1.bias)
    wanted = layer.fc2(functional.gelu(layer.fc1(middle)))
    torch.testing.assert_close(tap, wanted)
    torch.testing.assert_close(
        y, functional.layer_norm(middle + wanted, (16,), layer.norm2.weight, layer.norm2.bias)
    )


def test_taps_are_what_the_feed_forward_parts_give_even_with_dropout() -> None:
    network, x = encoder().train(), torch.rand(2, 1, 16, 16)
    seen: list[Tensor] = []
    for layer in network.layers:
        layer.fc2.register_forward_hook(lambda module, given, out: seen.append(out))
    encoded = network(x)
    assert len(encoded.taps) == len(seen) == SHAPE.layers
    for tap, out in zip(encoded.taps, seen, strict=True):
        assert torch.equal(tap, out)
    assert not any(torch.equal(t, h) for t, h in zip(encoded.taps, encoded.hidden, strict=True))


@pytest.mark.parametrize("bias", ["none", "alibi", "layer_table"])
def test_a_sample_becomes_the_same_alone_and_beside_one_with_padding(bias: str) -> None:
    torch.manual_seed(0)
    network = Encoder(vision(), replace(SHAPE, attention_bias=bias)).eval()
    for relative in network.relative.parameters():
        torch.nn.init.normal_(relative)
    x, valid = torch.randn(2, 16, 16), torch.arange(16) < torch.tensor([16, 9])[:, None]
    alone, beside = network.run(x[:1], valid[:1]), network.run(x, valid)
    for one, two in zip((*alone.taps, alone.out), (*beside.taps, beside.out), strict=True):
        torch.testing.assert_close(one, two[:1], atol=1e-5, rtol=1e-5)


def test_padding_never_influences_what_is_valid() -> None:
    network = encoder()
    valid = torch.arange(16) < torch.tensor([16, 9, 2])[:, None]
    x = torch.randn(3, 16, 16)
    other = torch.where(valid[..., None], x, 100 * torch.randn(3, 16, 16))
    one, two = network.run(x, valid), network.run(other, valid)
    for a, b in zip((*one.hidden, *one.taps, one.out), (*two.hidden, *two.taps, two.out), strict=True):
        torch.testing.assert_close(a[valid], b[valid])


def test_a_filled_up_row_gives_what_the_row_alone_gives() -> None:
    network, x = encoder(), torch.randn(2, 16, 16)
    valid = torch.arange(16) < torch.tensor([16, 5])[:, None]
    alone = network.run(x[1:, :5], valid[1:, :5]).hidden[-1]
    torch.testing.assert_close(network.run(x, valid).hidden[-1][1:, :5], alone)


def test_real_samples_of_a_batch_do_not_influence_one_another(modality: Modality, ingested: Path) -> None:
    network, x = encoder(modality), some_samples(modality, ingested)
    together = network.embed(x)
    for i in range(len(x)):
        torch.testing.assert_close(together[i : i + 1], network.embed(x[i : i + 1]))


def test_an_embedding_is_the_mean_valid_token_of_every_layer(modality: Modality, ingested: Path) -> None:
    network, x = encoder(modality), some_samples(modality, ingested)
    encoded = network(x)
    for i in range(len(x)):
        parts = [h[i][encoded.valid[i]].mean(0) for h in encoded.hidden]
        torch.testing.assert_close(network.embed(x)[i], torch.cat(parts))


# --- places --------------------------------------------------------------------------


def test_positions_of_a_line_are_those_of_the_paper() -> None:
    given = sincos_positions((7,), 8)
    for place in range(7):
        for i in range(4):
            angle = place / 10_000 ** (2 * i / 8)
            assert given[place, i].item() == pytest.approx(math.sin(angle), abs=1e-6)
            assert given[place, 4 + i].item() == pytest.approx(math.cos(angle), abs=1e-6)


def test_positions_of_a_grid_are_those_of_its_axes_row_by_row() -> None:
    grid, rows, columns = sincos_positions((3, 4), 8), *(sincos_positions((n,), 4) for n in (3, 4))
    for i in range(12):
        assert torch.equal(grid[i], torch.cat([rows[i // 4], columns[i % 4]]))


@pytest.mark.parametrize("grid", [(50,), (7, 7), (3, 4, 5)])
def test_no_two_places_have_the_same_code(grid: tuple[int, ...]) -> None:
    codes = sincos_positions(grid, 24)
    assert codes.shape == (math.prod(grid), 24)
    assert torch.cdist(codes, codes).fill_diagonal_(1).min() > 0.05


def test_tokens_are_the_frontends_with_positions_added(modality: Modality, ingested: Path) -> None:
    network, x = encoder(modality), some_samples(modality, ingested)
    plain = network.frontend(x)
    tokens = network.located(plain)
    assert isinstance(tokens, Tokens)
    assert plain.x.shape[1] == math.prod(modality.grid)
    torch.testing.assert_close(tokens.x - plain.x, network.positions.expand_as(plain.x))
    assert torch.equal(tokens.valid, plain.valid)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (replace(SHAPE, dim=18), "dim 18 is not divisible by 4"),
        (replace(SHAPE, heads=3), "divisible by 3 heads"),
        (replace(SHAPE, biases=("query", "keys")), r"biases name \['keys'\]; there are query, key, value"),
        (replace(SHAPE, convolutions=ConvolutionShape(layers=1, kernel=4, groups=2)), "kernel 4 must be odd"),
        (replace(SHAPE, convolutions=ConvolutionShape(layers=1, kernel=3, groups=3)), "3 groups must divide"),
    ],
)
def test_refuses_shapes_that_cannot_be(shape: Shape, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Encoder(vision(), shape)


def test_dropout_is_where_the_shape_says() -> None:
    network, x = encoder().train(), torch.rand(4, 1, 16, 16)
    set_dropout(network, 0.0)
    assert torch.equal(network.embed(x), network.embed(x))
    network.layers[0].attention.mixing.dropout = 0.5
    assert not torch.equal(network.embed(x), network.embed(x))
    network.layers[0].attention.mixing.dropout = 0.0
    set_dropout(network, 0.3)
    assert not torch.equal(network.embed(x), network.embed(x))
    assert torch.equal(network.eval().embed(x), network.embed(x))


# --- the switches -------------------------------------------------------------------------------

CONVOLUTIONS = ConvolutionShape(layers=2, kernel=3, groups=4)
SWITCHES: dict[str, dict[str, Any]] = {
    "plain": {},
    "pre-norm": {"norm": "pre", "norm_eps": 1e-6, "output_norm": "token"},
    "no norm at the end": {"norm": "pre", "output_norm": "none"},
    "layer scale": {"norm": "pre", "layer_scale": 0.1},
    "biases": {"biases": ("query", "value")},
    "learned positions": {"positions": "learned", "position_norm": True},
    "no positions": {"positions": "none"},
    "convolutions": {"positions": "none", "convolutions": CONVOLUTIONS},
    "shared table": {"attention_bias": "shared_table", "extra_tokens": 1},
    "a table in each layer": {"attention_bias": "layer_table", "extra_tokens": 2},
    "alibi": {"attention_bias": "alibi", "extra_tokens": 1},
    "alibi without extra tokens": {"attention_bias": "alibi", "heads": 4},
}


def perturbed(shape: Shape) -> Encoder:
    """A trunk, every weight of it away from where it starts, at which a wrong mapping can hide."""
    torch.manual_seed(0)
    network = Encoder(vision(), shape).eval()
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    return network


@pytest.mark.parametrize("name", SWITCHES)
@pytest.mark.parametrize("some", [False, True])
def test_every_switch_does_what_its_formula_says(name: str, some: bool) -> None:
    assert_as_naive(perturbed(replace(SHAPE, **SWITCHES[name])), some)


@pytest.mark.parametrize("name", ["plain", "pre-norm", "shared table", "a table in each layer", "alibi"])
@pytest.mark.parametrize("some", [False, True])
def test_layers_with_fewer_heads_and_channels_do_too(name: str, some: bool) -> None:
    shape = replace(SHAPE, **{"heads": 4, **SWITCHES[name]})
    slices = [LayerSize(heads=(0, 2, 3), channels=5), LayerSize(heads=(1,), channels=32)]
    assert_as_naive(perturbed(shape.cut(slices)), some)


def assert_as_naive(network: Encoder, some: bool) -> None:
    x = torch.rand(2, 1, 16, 16)
    tokens = network.frontend(x)
    known = torch.rand(2, 16) < (0.5 if some else 2)
    known[:, 0] = True
    located = network.located(tokens)
    seen, valid, place = gather_tokens(network.surrounded(located.x, known), known)
    given = network.run(seen, valid, place if some else None)
    for i in range(2):
        here = known[i].nonzero().flatten().tolist()
        rows = naive.located(network, tokens.x[i], here)
        hidden, taps, out = naive.run(network, {at: rows[at] for at in here})
        rows_of = [
            (given.out, out),
            *zip(given.hidden, hidden, strict=True),
            *zip(given.taps, taps, strict=True),
        ]
        for of_batch, of_places in rows_of:
            wanted = torch.stack([of_places[at] for at in here])
            torch.testing.assert_close(of_batch[i][valid[i]], wanted, atol=1e-5, rtol=1e-4)
        for number, extra in enumerate(given.extra[i]):
            torch.testing.assert_close(extra, out[-1 - number], atol=1e-5, rtol=1e-4)
    assert given.extra.shape == (2, network.shape.extra_tokens, 16)


def test_all_places_in_order_are_the_grid() -> None:
    network = perturbed(replace(SHAPE, attention_bias="shared_table", extra_tokens=1))
    x, valid = torch.randn(2, 16, 16), torch.ones(2, 16, dtype=torch.bool)
    places = torch.arange(16).expand(2, -1)
    torch.testing.assert_close(network.run(x, valid, places).out, network.run(x, valid).out)


def test_a_pooled_norm_is_what_a_head_reads_and_no_token() -> None:
    network = perturbed(replace(SHAPE, norm="pre", output_norm="pooled"))
    encoded = network(torch.rand(3, 1, 16, 16))
    assert torch.equal(encoded.out, encoded.hidden[-1])
    assert network.output_norm is not None
    torch.testing.assert_close(network.pooled(encoded), network.output_norm(encoded.out.mean(1)))


def test_slopes_are_those_of_the_paper() -> None:
    assert alibi_slopes(8).tolist() == pytest.approx([2.0**-i for i in range(1, 9)])
    sixteen = alibi_slopes(16).tolist()
    assert alibi_slopes(12).tolist() == pytest.approx([2.0**-i for i in range(1, 9)] + sixteen[:8:2])


def test_dropped_paths_leave_the_residual_of_some_samples() -> None:
    network = Encoder(vision(), replace(SHAPE, dropout=0.0, norm="pre", drop_path=1.0 - 1e-6)).train()
    encoded = network(torch.rand(4, 1, 16, 16))
    first, last = encoded.hidden
    assert torch.equal(first, last)  # the last layer is dropped as good as always, the first never
    assert not torch.equal(network.eval()(torch.rand(4, 1, 16, 16)).hidden[0], first)


def test_dropped_layers_are_left_out_while_training_only() -> None:
    network = Encoder(vision(), replace(SHAPE, layers=40, drop_layer=0.5, dropout=0.0)).train()
    x = torch.rand(1, 1, 16, 16)
    torch.manual_seed(0)
    assert 10 <= len(network(x).hidden) <= 30
    assert len(network.eval()(x).hidden) == 40


def test_convolutions_see_what_is_known_alone() -> None:
    network = perturbed(replace(SHAPE, convolutions=CONVOLUTIONS))
    x, known = torch.randn(1, 16, 16), torch.arange(16)[None] < 8
    other = torch.where(known[..., None], x, 9.0)
    one, two = network.surrounded(x, known), network.surrounded(other, known)
    assert torch.equal(one[known], two[known])
    assert not torch.equal(one, network.surrounded(x, torch.ones_like(known)))
