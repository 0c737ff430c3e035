from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from winnow.compress import fakequant, integer, ledger
from winnow.compress.export import to_onnx
from winnow.compress.sparsity import magnitude_keep, prunable
from winnow.data.modality import Modality
from winnow.ssl import model as models
from winnow.ssl.model import Classifier
from winnow.ssl.trunk import Encoder


def sparse() -> Classifier:
    model = tiny.classifier()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.01 * torch.randn(parameter.shape, generator=generator)
        for weight in prunable(model).values():
            weight.mul_(magnitude_keep(weight, 0.75, (1, 4), "average"))
    return model


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Classifier, Path]:
    model = sparse()
    fakequant.fake_quantize(model)
    model.train()(tiny.samples(64).x)
    integers = integer.to_integers(model)
    path = tmp_path_factory.mktemp("ledger") / "model.onnx"
    to_onnx(integers, tiny.samples(8).x, path)
    return integers, path


def test_every_byte_of_the_file_is_in_one_part(shipped: tuple[Classifier, Path]) -> None:
    model, path = shipped
    book = ledger.by_part(path, model)
    assert sum(book.values()) == path.stat().st_size
    assert set(book) == set(ledger.PARTS)
    # Each layer has 4 · 16² + 2 · 16 · 32 weights and 4 · 16 + 32 + 16 biases.
    assert book["encoder_weights"] == 2 * (4 * 256 + 2 * 512)
    assert book["encoder_biases"] == 2 * 4 * 112
    assert book["norms"] == 5 * 2 * 16 * 4
    assert book["positions"] == 4 * 16 * 4
    assert book["embeddings"] == 0
    assert min(book["head"], book["frontend"], book["encoder_scales"], book["graph"]) > 0


def test_every_tensor_of_a_model_has_a_part(modality: Modality) -> None:
    model = Classifier(Encoder(modality, tiny.SHAPE), tiny.CLASSES)
    fakequant.fake_quantize(model)
    model.train()(torch.stack([some(modality)] * 2))
    for network in (Classifier(Encoder(modality, tiny.SHAPE), tiny.CLASSES), integers(model)):
        parts = {ledger.part(name, network) for name in network.state_dict()}
        assert "graph" not in parts
        assert {"encoder_weights", "norms", "head"} <= parts
        assert parts & {"embeddings", "frontend"}


def integers(model: Classifier) -> Classifier:
    return integer.to_integers(model.eval())


def some(modality: Modality) -> torch.Tensor:
    """Any input that the frontend reads."""
    shapes = {"Vision": (1, 16, 16), "Speech": (50, 16), "Text": (24,)}
    x = torch.rand(shapes[type(modality).__name__])
    return x if x.dim() > 1 else (x * 100).long()


def test_the_counted_ratio_is_the_papers() -> None:
    # 90 % sparse and int8 makes 40X; here 75 % makes 16.
    assert ledger.counted_ratio(sparse()) == pytest.approx(16)


def test_honest_ratios_are_of_bytes_on_disk(shipped: tuple[Classifier, Path], tmp_path: Path) -> None:
    model, path = shipped
    models.save(sparse(), tmp_path)
    file = tmp_path / "model.safetensors"
    found = ledger.ratios(sparse(), file, model, path)
    assert found["file_ratio"] == round(file.stat().st_size / path.stat().st_size, 4)
    book = ledger.by_part(path, model)
    int8_encoder = sum(book[name] for name in ledger.ENCODER)
    float_encoder = sum(
        tensor.numel() * 4
        for name, tensor in sparse().state_dict().items()
        if ".layers." in name or name.startswith("encoder.norm.")
    )
    assert found["encoder_ratio"] == round(float_encoder / int8_encoder, 4)
    assert found["encoder_ratio"] < 4 < ledger.counted_ratio(sparse())
    assert all(np.isfinite(list(found.values())))
