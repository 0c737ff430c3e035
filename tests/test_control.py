from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import tiny
import tiny_trunk
import torch
from conftest import KINDS
from test_prune import FILES, RUN, TEACHING
from tiny_trunk import SHAPE

from winnow.compress import bundle, control, fakequant, integer
from winnow.compress.control import Match, Narrow, largest, size
from winnow.compress.fakequant import Bits, FakeQuantized, Observer
from winnow.compress.sparsity import measured_sparsity
from winnow.data import store
from winnow.data.modality import Modality
from winnow.data.stage import BadInput
from winnow.data.store import read_classes
from winnow.ssl import model as models
from winnow.ssl.model import Classifier
from winnow.ssl.trunk import Encoder

BITS = Bits(layers=7, embeddings=8)
MODEL: dict[str, Any] = {
    **TEACHING,
    "heads": 2,
    "quantize": 0.5,
    "observe": 0.75,
    "bits": {"layers": 7, "embeddings": 8},
}


def dense_int8(modality: Modality, dim: int, mlp_ratio: float = SHAPE.mlp_ratio) -> Classifier:
    torch.manual_seed(1)
    model = Classifier(Encoder(modality, replace(SHAPE, dim=dim, mlp_ratio=mlp_ratio)), tiny.CLASSES)
    with torch.no_grad():
        for parameter in model.parameters():  # biases and norms take bytes once they are trained
            parameter.add_(0.05 * torch.randn_like(parameter))
    fakequant.fake_quantize(model, BITS)
    for observer in (module for module in model.modules() if isinstance(module, Observer)):
        observer.watch(torch.randn(100))
    return integer.to_integers(model)


def save_sparse_int8(modality: Modality, classes: list[str], folder: Path) -> None:
    """Write a wide classifier, of whose weights a quarter is left, as `quantize` does."""
    folder.mkdir()
    torch.manual_seed(1)
    model = Classifier(Encoder(modality, replace(SHAPE, dim=48)), classes)
    tiny.sparsify(model)
    models.save(model, folder)
    fakequant.fake_quantize(model, BITS)
    for observer in (module for module in model.modules() if isinstance(module, Observer)):
        observer.watch(torch.randn(100))
    integer.save(integer.to_integers(model), folder / "quantized.safetensors")


@pytest.mark.parametrize("match", ["bundle", "encoder"])
def test_the_shape_is_the_largest_that_fits(match: Match) -> None:
    modality = tiny_trunk.vision()
    sparse = dense_int8(modality, 48)
    assert size(sparse, "encoder") < size(sparse, "bundle") == len(bundle.weights(sparse))
    for name, weight in sparse.state_dict().items():
        if ".layers." in name and weight.dim() > 1:
            weight[torch.rand(weight.shape[0]) < 0.7] = 0
    found, budget = largest(sparse, match, 2, BITS), size(sparse, match)
    assert found.dim % 4 == 0 and 16 <= found.dim < 40 and found.mlp_ratio >= SHAPE.mlp_ratio
    assert 0.95 * budget < size(dense_int8(modality, found.dim, found.mlp_ratio), match) <= 1.05 * budget
    assert size(dense_int8(modality, found.dim + 4), match) > 0.95 * budget
    layer = Encoder(modality, found).layers[0]
    assert layer.fc1.weight.shape[0] == round(found.dim * found.mlp_ratio)  # type: ignore[union-attr]


def test_what_is_as_large_as_dense_has_its_own_width_as_control() -> None:
    wide = dense_int8(tiny_trunk.vision(), 24)
    found = largest(wide, "encoder", 2, Bits(layers=4, embeddings=4))
    assert found == replace(SHAPE, dim=24)


def test_the_width_fits_heads_and_positions_or_there_is_none() -> None:
    modality = tiny_trunk.vision()  # two axes: positions need multiples of 4
    assert largest(dense_int8(modality, 48), "bundle", 3, Bits(layers=6, embeddings=6)).dim % 12 == 0
    with pytest.raises(BadInput, match="least for 24 heads, takes more"):
        largest(dense_int8(modality, 24), "bundle", 24, Bits(layers=8, embeddings=8))


def test_it_is_float_at_first_then_int8_and_its_optimizer_never_starts_again(tmp_path: Path) -> None:
    teacher = tiny.classifier(1)
    models.save(teacher, tmp_path)
    sparse = tmp_path / "quantize"
    save_sparse_int8(teacher.encoder.modality, tiny.CLASSES, sparse)
    method = Narrow(
        teacher.encoder.modality,
        tiny.CLASSES,
        tmp_path,
        sparse,
        dim=8,
        heads=2,
        mlp_ratio=3.0,
        quantize=0.5,
        observe=0.75,
        bits=BITS,
        distillation=tiny.DISTILLATION,
        optimization=tiny.OPTIMIZATION,
        seed=0,
    )
    assert method.student.encoder.dim == 8 and len(method.student.encoder.layers) == SHAPE.layers
    parameters = {id(parameter) for parameter in method.student.parameters()}
    seen: list[tuple[int, int]] = []

    class Watch(tiny.lightning.Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            layers = [module for module in method.modules() if isinstance(module, FakeQuantized)]
            seen.append((len(layers), sum(layer.input.frozen for layer in layers)))

    trainer = tiny.fit(method, 8, Watch())
    number = 1 + 2 * 6 + 1
    assert seen == [(0, 0)] * 4 + [(number, 0)] * 2 + [(number, number)] * 2
    assert {id(parameter) for parameter in method.student.parameters()} == parameters
    state = trainer.optimizers[0].state
    assert {int(state[parameter]["step"]) for parameter in method.student.parameters()} == {8}


@pytest.mark.parametrize("kind", [KINDS[0]], ids=["vision"], indirect=True)
def test_writes_what_quantize_writes_and_counts_the_bytes_of_both(
    modality: Modality, ingested: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["control"])
    classes = read_classes(ingested)
    teacher, sparse, out = (tmp_path / name for name in ("teacher", "quantize", "control"))
    save_sparse_int8(modality, classes, sparse)
    for folder in (teacher, out):
        folder.mkdir()
    torch.manual_seed(0)
    models.save(Classifier(Encoder(modality, SHAPE), classes), teacher)
    control.main(
        modality,
        ingested,
        ingested,
        teacher,
        sparse,
        out,
        match="bundle",
        model=MODEL,
        **RUN,
        logs=tmp_path / "logs",
    )
    assert {path.name for path in out.iterdir()} == FILES | {"quantized.safetensors", "model.onnx"}
    metrics, kept = store.read_json(out / "metrics.json"), integer.load(out)
    assert metrics["bytes"] == len(bundle.weights(kept))
    assert metrics["sparse_bytes"] == len(bundle.weights(integer.load(sparse)))
    assert 0.9 * metrics["sparse_bytes"] < metrics["bytes"] <= 1.02 * metrics["sparse_bytes"]
    assert metrics["dim"] == kept.encoder.dim < 48
    assert metrics["onnx_agreement"] >= 0.99
    master = models.load_classifier(out)
    assert measured_sparsity(master) < 0.01
    assert metrics["parameters"] == sum(parameter.numel() for parameter in master.parameters())
    assert pd.read_csv(out / "history.csv")["loss"].notna().all()
    assert models.read_notes(out) == {"control": "bundle"}
