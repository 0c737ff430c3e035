import json
import math
from pathlib import Path

import pytest
import torch
from conftest import Kind
from hypothesis import given
from hypothesis import strategies as st
from runs import SHAPE
from torch import Tensor
from torch.nn import functional

from winnow.data import store
from winnow.data.modality import Modality, Tokens, build
from winnow.data.vision import Vision
from winnow.ssl import model as models
from winnow.ssl.model import (
    Attention,
    Classifier,
    Encoder,
    Layer,
    Shape,
    gather_tokens,
    pool,
    sincos_positions,
)


def vision() -> Vision:
    return Vision(size=16, patch=4, channels=1)


def encoder(modality: Modality | None = None, seed: int = 0) -> Encoder:
    torch.manual_seed(seed)
    return Encoder(modality or vision(), SHAPE).eval()


def some_samples(modality: Modality, ingest: Path, number: int = 6) -> Tensor:
    rows = [modality.load(raw) for _, raw in store.payloads(ingest)]
    return torch.stack(rows[:: len(rows) // number][:number])


# --- attention and layers -----------------------------------------------------------------------


def test_attention_agrees_with_a_loop_over_samples_heads_and_tokens() -> None:
    torch.manual_seed(0)
    attention = Attention(SHAPE).eval()
    x = torch.randn(3, 5, 16)
    valid = torch.arange(5) < torch.tensor([5, 3, 1])[:, None]
    given = attention(x, valid)

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


def test_a_layer_is_post_norm_and_its_tap_stands_before_the_residual() -> None:
    torch.manual_seed(0)
    layer, x = Layer(SHAPE).eval(), torch.randn(2, 4, 16)
    valid = torch.ones(2, 4, dtype=torch.bool)
    y, tap = layer(x, valid)
    middle = functional.layer_norm(x + layer.attention(x, valid), (16,), layer.norm1.weight, layer.norm1.bias)
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


def test_padding_never_influences_what_is_valid() -> None:
    network = encoder()
    valid = torch.arange(16) < torch.tensor([16, 9, 2])[:, None]
    x = torch.randn(3, 16, 16)
    other = torch.where(valid[..., None], x, 100 * torch.randn(3, 16, 16))
    for one, two in zip(network.run(x, valid), network.run(other, valid), strict=True):
        for a, b in zip(one, two, strict=True):
            torch.testing.assert_close(a[valid] if a.ndim > 2 else a, b[valid] if b.ndim > 2 else b)


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


def test_pool_averages_the_valid_and_gives_zero_where_there_is_none() -> None:
    x = torch.tensor([[[1.0], [3.0], [50.0]], [[7.0], [7.0], [7.0]]])
    valid = torch.tensor([[True, True, False], [False, False, False]])
    assert pool(x, valid).tolist() == [[2.0], [0.0]]


# --- tokens and places --------------------------------------------------------------------------


@given(tokens=st.integers(1, 12), batch=st.integers(1, 4), seed=st.integers(0, 999), share=st.floats(0, 1))
def test_gathered_tokens_know_where_they_came_from(tokens: int, batch: int, seed: int, share: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.rand(batch, tokens, generator=generator) < share
    chosen[0, seed % tokens] = True
    index = torch.arange(batch * tokens).reshape(batch, tokens, 1).float()
    x, seen, place = gather_tokens(index, chosen)
    assert x.shape[1] == int(chosen.sum(1).max())
    for row in range(batch):
        assert x[row][seen[row]].flatten().tolist() == index[row][chosen[row]].flatten().tolist()
        assert place[row][seen[row]].tolist() == chosen[row].nonzero().flatten().tolist()
        assert len(set(place[row].tolist())) == len(place[row])  # filled up with places of its own
    back = torch.full_like(index, -1).scatter(1, place[..., None], x)
    assert torch.equal(back[chosen], index[chosen])


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
    plain, tokens = network.frontend(x), network.tokens(x)
    assert isinstance(tokens, Tokens)
    assert plain.x.shape[1] == math.prod(modality.grid)
    torch.testing.assert_close(tokens.x - plain.x, network.positions.expand_as(plain.x))
    assert torch.equal(tokens.valid, plain.valid)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (
            Shape(dim=18, layers=1, heads=2, mlp_ratio=2.0, dropout=0.0, attention_dropout=0.0),
            "dim 18 is not divisible by 4",
        ),
        (
            Shape(dim=16, layers=1, heads=3, mlp_ratio=2.0, dropout=0.0, attention_dropout=0.0),
            "divisible by 3 heads",
        ),
    ],
)
def test_refuses_widths_that_do_not_divide(shape: Shape, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Encoder(vision(), shape)


def test_dropout_is_where_the_shape_says() -> None:
    network, x = encoder().train(), torch.rand(4, 1, 16, 16)
    models.set_dropout(network, 0.0)
    assert torch.equal(network.embed(x), network.embed(x))
    network.layers[0].attention.dropout = 0.5
    assert not torch.equal(network.embed(x), network.embed(x))
    network.layers[0].attention.dropout = 0.0
    models.set_dropout(network, 0.3)
    assert not torch.equal(network.embed(x), network.embed(x))
    assert torch.equal(network.eval().embed(x), network.embed(x))


# --- save and load ------------------------------------------------------------------------------


@pytest.mark.parametrize("headed", [False, True])
def test_a_model_comes_back_as_it_was_saved(
    modality: Modality, ingested: Path, tmp_path: Path, headed: bool
) -> None:
    model: Encoder | Classifier = encoder(modality)
    if headed:
        model = Classifier(model, ["b", "a", "ä"]).eval()
    x = some_samples(modality, ingested)
    models.save(model, tmp_path, pattern={"block": [1, 4]})
    back = models.load(tmp_path)
    assert type(back) is type(model)
    assert not any(module.training for module in back.modules())
    assert torch.equal(models.load_encoder(tmp_path).embed(x), model_encoder(model).embed(x))
    assert models.read_notes(tmp_path) == {"pattern": {"block": [1, 4]}}
    trunk = model_encoder(back)
    assert trunk.shape == SHAPE
    assert models.section(trunk.modality) == models.section(modality)
    if headed:
        again = models.load_classifier(tmp_path)
        assert again.classes == ["b", "a", "ä"]
        assert torch.equal(again(x), model(x))


def model_encoder(model: Encoder | Classifier) -> Encoder:
    return model.encoder if isinstance(model, Classifier) else model


def test_saving_twice_writes_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        models.save(encoder(), tmp_path / name)
    for file in ("model.safetensors", "config.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_a_section_rebuilds_an_equal_modality(modality: Modality, ingested: Path, kind: Kind) -> None:
    section = models.section(modality)
    assert json.loads(json.dumps(section)) == section
    again = build(section)
    assert type(again) is type(modality)
    assert again.grid == modality.grid
    assert models.section(again) == section
    for name, value in kind.section["init_args"].items():
        assert section["init_args"][name] == value
    _, payload = next(iter(store.payloads(ingested)))
    assert torch.equal(again.load(payload), modality.load(payload))
    one, two = (m.transform(m.load(payload), torch.Generator().manual_seed(0)) for m in (modality, again))
    assert torch.equal(one, two)


def test_a_folder_without_a_model_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        models.load(tmp_path)


def test_an_encoder_is_no_classifier(tmp_path: Path) -> None:
    models.save(encoder(), tmp_path)
    with pytest.raises(ValueError, match="encoder without a head"):
        models.load_classifier(tmp_path)


def test_weights_that_do_not_fit_the_architecture_are_an_error(tmp_path: Path) -> None:
    models.save(encoder(), tmp_path)
    config = store.read_json(tmp_path / "config.json")
    for key, value in (("layers", 3), ("layers", 1), ("dim", 32)):
        store.write_json(tmp_path / "config.json", {**config, "shape": {**config["shape"], key: value}})
        with pytest.raises(RuntimeError, match="state_dict"):
            models.load(tmp_path)
