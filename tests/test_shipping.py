from pathlib import Path

import pytest
import tiny
import torch
from test_quantize import quantized

from winnow.compress import fakequant, integer, shipping
from winnow.compress.export import to_onnx
from winnow.compress.shipping import compare
from winnow.data import store
from winnow.ssl import model as models


def test_a_folder_holds_the_integers_the_float_weights_behind_and_the_notes(tmp_path: Path) -> None:
    student, samples = quantized(), tiny.samples(64)
    measured = shipping.ship(student, {}, samples, tmp_path, {"about": "it"}, threads=1)
    names = {"model.safetensors", "config.json", "quantized.safetensors", "model.onnx"}
    assert {path.name for path in tmp_path.iterdir()} == names
    assert models.read_notes(tmp_path) == {"about": "it"}
    master, behind = models.load_classifier(tmp_path).state_dict(), fakequant.master_weights(student)
    assert all(torch.equal(weight, behind[name]) for name, weight in master.items())
    assert torch.equal(integer.load(tmp_path)(samples.x), integer.to_integers(student)(samples.x))
    assert measured["onnx_agreement"] >= shipping.MIN_AGREEMENT
    assert "about" in store.read_json(tmp_path / "config.json")["notes"]


def test_zeros_that_came_back_are_not_shipped(tmp_path: Path) -> None:
    student = quantized()
    name = "encoder.layers.0.fc1.weight"
    keep = {name: torch.zeros_like(student.get_parameter(name), dtype=torch.bool)}
    with pytest.raises(RuntimeError, match=name):
        shipping.ship(student, keep, tiny.samples(8), tmp_path, {}, threads=1)


def test_a_file_that_does_something_else_is_refused(tmp_path: Path) -> None:
    batch = tiny.samples(64)
    to_onnx(integer.to_integers(quantized()), batch.x, tmp_path / "model.onnx")
    found = compare(quantized(), tmp_path / "model.onnx", batch, threads=1)
    assert found["onnx_agreement"] >= 0.99
    other = quantized()
    with torch.no_grad():
        other.head.weight.neg_()
    with pytest.raises(RuntimeError, match=r"agrees with the trained network on .*%"):
        compare(other, tmp_path / "model.onnx", batch, threads=1)
