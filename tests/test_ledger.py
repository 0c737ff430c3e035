from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from winnow.compress import bundle, fakequant, integer, ledger
from winnow.compress.export import to_onnx
from winnow.ssl import model as models
from winnow.ssl.model import Classifier


def sparse() -> Classifier:
    model = tiny.classifier()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.01 * torch.randn(parameter.shape, generator=generator)
    tiny.sparsify(model)
    return model


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Classifier, Path]:
    model = sparse()
    fakequant.fake_quantize(model)
    model.train()(tiny.samples(64).x)
    integers = integer.to_integers(model)
    out = tmp_path_factory.mktemp("ledger")
    models.save(sparse(), out)
    integer.save(integers, out / "quantized.safetensors")
    to_onnx(integers, tiny.samples(8).x, out / "model.onnx")
    bundle.write(out, {}, out / "model.winnow")
    return integers, out


def counted(shipped: tuple[Classifier, Path]) -> ledger.Book:
    model, out = shipped
    return ledger.by_part(model, out / "model.onnx", out / "model.winnow")


def test_every_byte_of_each_file_is_in_one_part(shipped: tuple[Classifier, Path]) -> None:
    book = counted(shipped)
    assert list(book) == list(ledger.ROWS)
    for form, name in (("onnx", "model.onnx"), ("bundle", "model.winnow")):
        assert sum(row[form] for row in book.values()) == (shipped[1] / name).stat().st_size
    # Each layer has 4 · 16² + 2 · 16 · 32 weights and 4 · 16 + 32 + 16 biases.
    assert book["encoder_values"]["onnx"] == 2 * (4 * 256 + 2 * 512)
    assert book["encoder_biases"]["onnx"] == book["encoder_biases"]["packed"] == 2 * 4 * 112
    assert book["norms"]["onnx"] == 5 * 2 * 16 * 4
    assert book["positions"]["onnx"] == 4 * 16 * 4
    assert set(book["embeddings"].values()) == {0}
    for row in ("head", "frontend", "encoder_scales", "container"):
        assert min(book[row].values()) > 0


def test_kept_blocks_are_counted_once_as_values_and_once_as_an_index(
    shipped: tuple[Classifier, Path],
) -> None:
    book = counted(shipped)
    # Three of four blocks are gone; a block may be laid down as larger or smaller ones.
    weights, kept = 2 * (4 * 256 + 2 * 512), 2 * (4 * 256 + 2 * 512) // 4
    assert kept <= book["encoder_values"]["packed"] <= 1.2 * kept
    assert 0 < book["encoder_indices"]["packed"] <= weights // 4 // 8
    assert book["encoder_indices"]["onnx"] == 0
    assert book["encoder_values"]["bundle"] < book["encoder_values"]["packed"] + 100


def test_the_counted_ratio_is_the_papers() -> None:
    # 90 % sparse and int8 makes 40X; here 75 % makes 16.
    assert ledger.counted_ratio(sparse(), sparse()) == pytest.approx(16)


def test_honest_ratios_are_of_bytes_on_disk(shipped: tuple[Classifier, Path]) -> None:
    model, out = shipped
    book = counted(shipped)
    files = (out / "model.onnx", out / "model.winnow")
    found = ledger.ratios(sparse(), out / "model.safetensors", sparse(), model, *files, book)
    plain = (out / "model.safetensors").stat().st_size
    assert found["whole_file"] == round(plain / files[1].stat().st_size, 4)
    assert found["onnx_file"] == round(plain / files[0].stat().st_size, 4)
    encoder = sum(
        tensor.numel() * 4
        for name, tensor in sparse().state_dict().items()
        if ".layers." in name or name.startswith("encoder.norm.")
    )
    held = sum(book[row]["packed"] for row in ledger.ENCODER)
    # The header is paid for, too: in so small a model that is much.
    assert found["packed"] < encoder / held < ledger.counted_ratio(sparse(), sparse()) == found["counted"]
    assert found["packed"] > found["onnx_file"]
    assert all(np.isfinite(list(found.values())))
