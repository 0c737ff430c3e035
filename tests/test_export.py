import copy
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import tiny
import torch

from winnow.compress import fakequant, integer
from winnow.compress.export import compressed_bytes, to_onnx
from winnow.compress.fakequant import NEVER_SATURATES, Bits, Products
from winnow.compress.runtimes import OnnxRuntime, logits
from winnow.data import store
from winnow.data.modality import Modality
from winnow.ssl.classification import predict
from winnow.ssl.mixing import Mixing
from winnow.ssl.model import Classifier
from winnow.ssl.trunk import Encoder

# An export takes seconds for each layer.
SHAPE = replace(tiny.SHAPE, dim=32, layers=1)
SMALL = replace(tiny.SHAPE, layers=1)
SEVEN = Bits(layers=NEVER_SATURATES, embeddings=8)


def inputs(modality: Modality, ingested: Path, number: int) -> torch.Tensor:
    payloads = store.payloads(ingested)
    return torch.stack([modality.load(payload) for _, payload in payloads])[:number]


def trained(model: Classifier, x: torch.Tensor, attention: Products = "float") -> Classifier:
    """Fake-quantize a classifier whose biases and scales are all different, as after training."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    # Of eight bits, products would saturate on machines without VNNI.
    fakequant.fake_quantize(model, SEVEN, attention)
    model.train()(x)
    return model.eval()


def test_onnx_runtime_does_what_was_trained(modality: Modality, ingested: Path, tmp_path: Path) -> None:
    x = inputs(modality, ingested, 40)
    model = Classifier(Encoder(modality, SHAPE), ["a", "b", "c"]).eval()
    to_onnx(model, x, tmp_path / "float.onnx")
    found = logits(OnnxRuntime(tmp_path / "float.onnx", 1), x, 16)
    assert np.allclose(found, predict(model, x, 16).numpy(), atol=1e-4)

    attentions: tuple[Products, ...] = ("float", "int8")
    for attention in attentions:
        fake = trained(copy.deepcopy(model), x, attention)
        to_onnx(integer.to_integers(fake), x, tmp_path / "int8.onnx")
        found = logits(OnnxRuntime(tmp_path / "int8.onnx", 1), x, 16)
        wanted = predict(fake, x, 16).numpy()
        # Rounding ties that fall the other way move a logit by steps of int8, no more.
        assert np.abs(found - wanted).max() < 0.05
        assert np.median(np.abs(found - wanted)) < 0.005


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Classifier, Path]:
    model = integer.to_integers(trained(tiny.classifier(shape=SMALL), tiny.samples(64).x))
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    to_onnx(model, tiny.samples(8).x, path)
    return model, path


def test_two_exports_are_the_same_bytes_and_name_no_place_of_this_machine(
    exported: tuple[Classifier, Path], tmp_path: Path
) -> None:
    model, path = exported
    to_onnx(model, tiny.samples(8, seed=1).x, tmp_path / "again.onnx")
    content = path.read_bytes()
    assert content == (tmp_path / "again.onnx").read_bytes()
    for place in (str(Path.cwd()), str(Path(torch.__file__).parent), str(Path.home()), ".py"):
        assert place.encode() not in content


@pytest.mark.parametrize("number", [1, 2, 33])
def test_any_number_of_samples_is_one_batch(exported: tuple[Classifier, Path], number: int) -> None:
    x = tiny.samples(number).x
    assert OnnxRuntime(exported[1], 1)(x).logits.shape == (number, 3)


def test_says_what_it_reads_and_what_it_answers(exported: tuple[Classifier, Path]) -> None:
    held = {entry.key: entry.value for entry in onnx.load(exported[1]).metadata_props}
    assert json.loads(held["classes"]) == tiny.CLASSES
    assert json.loads(held["modality"]) == {
        "class_path": "winnow.data.vision.Vision",
        "init_args": {"size": 8, "patch": 4, "channels": 1},
    }


def test_weights_lie_as_int8_and_biases_as_int32(exported: tuple[Classifier, Path]) -> None:
    graph = onnx.load(exported[1]).graph
    kinds = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for name, module in exported[0].named_modules():
        if isinstance(module, integer.Integer):
            assert kinds[f"{name}.weight"] == onnx.TensorProto.INT8
            assert kinds[f"{name}.bias"] == onnx.TensorProto.INT32
    matrices = [tensor for tensor in graph.initializer if len(tensor.dims) > 1 and tensor.data_type == 1]
    assert [tensor.name for tensor in matrices] == ["encoder.positions"]


def test_every_matrix_of_a_layer_becomes_an_integer_product_in_onnx_runtime(
    exported: tuple[Classifier, Path], tmp_path: Path
) -> None:
    assert optimized(exported[1], tmp_path)["MatMulIntegerToFloat"] >= 6


def optimized(path: Path, scratch: Path) -> Counter[str]:
    """Count the operators that ONNX Runtime makes of a file."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(scratch / "optimized.onnx")
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(scratch / "optimized.onnx").graph.node)


def test_attention_becomes_two_integer_products_in_onnx_runtime(tmp_path: Path) -> None:
    model = integer.to_integers(trained(tiny.classifier(shape=SMALL), tiny.samples(64).x, "int8"))
    to_onnx(model, tiny.samples(8).x, tmp_path / "model.onnx")
    kinds = optimized(tmp_path / "model.onnx", tmp_path)
    assert kinds["MatMulIntegerToFloat"] >= 6 + 2 and not kinds["MatMul"]
    # An integer form that multiplies floats would leave the graph without them.
    model.encoder.get_submodule("layers.0.attention.mixing").forward = Mixing(dropout=0.0).forward  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match=r"'products of uint8 and uint8': 0.*: 2"):
        to_onnx(model, tiny.samples(8).x, tmp_path / "float.onnx")


def test_a_layer_that_stayed_float_is_an_error(tmp_path: Path) -> None:
    model = integer.to_integers(trained(tiny.classifier(shape=SMALL), tiny.samples(64).x))
    # The head multiplies by something else than the weight that was dequantized.
    model.head.operation = lambda x, weight, bias: x @ weight.abs() + bias  # type: ignore[assignment]
    with pytest.raises(RuntimeError, match=r"'products of uint8 and int8': 7.*: 8"):
        to_onnx(model, tiny.samples(8).x, tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


def test_zeros_compress_and_noise_does_not() -> None:
    noise = np.random.default_rng(0).bytes(10_000)
    assert compressed_bytes(bytes(10_000)) < 100
    assert 10_000 <= compressed_bytes(noise) < 10_100
