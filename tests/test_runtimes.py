from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny
from conftest import png
from test_export import SMALL, trained

from winnow.compress import integer
from winnow.compress.export import to_onnx
from winnow.compress.predict import Predictor, load
from winnow.compress.runtimes import OnnxRuntime, TorchRuntime, logits
from winnow.data.vision import Vision
from winnow.ssl.model import Classifier


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Classifier, Path]:
    model = integer.to_integers(trained(tiny.classifier(shape=SMALL), tiny.samples(64).x))
    path = tmp_path_factory.mktemp("runtimes") / "model.onnx"
    to_onnx(model, tiny.samples(8).x, path)
    return model, path


def test_all_runtimes_say_the_same(shipped: tuple[Classifier, Path]) -> None:
    x = tiny.samples(20).x
    one, other = TorchRuntime(shipped[0])(x), OnnxRuntime(shipped[1], 1)(x)
    assert one.logits.shape == (20, 3) and one.embedding.shape == (20, SMALL.dim)
    for found, wanted in zip(other, one, strict=True):
        # Rounding ties that fall the other way move a value by steps of int8, no more.
        assert np.abs(found - wanted).max() < 0.05
        assert np.median(np.abs(found - wanted)) < 0.005


def test_the_embedding_is_what_the_head_reads(shipped: tuple[Classifier, Path]) -> None:
    model = tiny.classifier()
    said = TorchRuntime(model)(tiny.samples(5).x)
    weight, bias = model.head.weight.detach().numpy(), model.head.bias.detach().numpy()
    assert np.allclose(said.embedding @ weight.T + bias, said.logits, atol=1e-5)


def test_batches_change_nothing(shipped: tuple[Classifier, Path]) -> None:
    x, run = tiny.samples(7).x, OnnxRuntime(shipped[1], 1)
    assert np.allclose(logits(run, x, 3), run(x).logits, atol=1e-6)


def test_an_onnx_file_says_how_samples_are_read(shipped: tuple[Classifier, Path]) -> None:
    run = OnnxRuntime(shipped[1], 1)
    modality = run.modality()
    assert isinstance(modality, Vision) and modality.size == 8
    assert run.classes == tiny.CLASSES


def test_an_onnx_file_predicts_raw_data_as_a_bundle_does(shipped: tuple[Classifier, Path]) -> None:
    raw = [png(np.full((8, 8), grey, np.uint8)) for grey in (20, 120, 220)]
    found = load(shipped[1])(raw)
    model = shipped[0]
    wanted = Predictor(model.encoder.modality, model.classes, TorchRuntime(model), {})(raw)
    assert found.classes == wanted.classes
    assert np.abs(found.probs - wanted.probs).max() < 0.05


def test_refuses_what_is_no_onnx_file_or_of_somebody_else(
    shipped: tuple[Classifier, Path], tmp_path: Path
) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match=r"broken\.onnx is no ONNX file"):
        OnnxRuntime(tmp_path / "broken.onnx", 1)
    proto = onnx.load(shipped[1])
    del proto.metadata_props[:]
    onnx.save(proto, tmp_path / "other.onnx")
    with pytest.raises(ValueError, match=r"other\.onnx has no classes, modality"):
        OnnxRuntime(tmp_path / "other.onnx", 1)
    with pytest.raises(FileNotFoundError):
        OnnxRuntime(tmp_path / "absent.onnx", 1)
