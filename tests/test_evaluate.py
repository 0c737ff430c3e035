from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from compiling import require_compiler
from test_quantize import quantized

from winnow.compress import evaluate, integer
from winnow.compress.engine.classifier import EngineClassifier
from winnow.compress.evaluate import in_engine, latency, lost
from winnow.compress.export import to_onnx
from winnow.compress.runtimes import OnnxRuntime, TorchRuntime
from winnow.data.intervals import measured
from winnow.data.modality import Modality
from winnow.data.stage import BadInput
from winnow.ssl import model as models
from winnow.ssl.model import Classifier
from winnow.ssl.trunk import Encoder


def test_an_accuracy_comes_with_wilsons_interval() -> None:
    # R: prop.test(81, 263, correct = FALSE), the example of Newcombe (1998), table I.
    found = measured("accuracy", np.arange(263) < 81)
    assert found["accuracy"] == pytest.approx(0.307985, abs=1e-6)
    assert found["accuracy_low"] == pytest.approx(0.2553, abs=5e-5)
    assert found["accuracy_high"] == pytest.approx(0.3662, abs=5e-5)


def test_a_paired_difference_is_narrower_than_two_separate_accuracies() -> None:
    teacher = np.arange(400) < 380
    other = teacher.copy()
    other[:8] = False
    found = lost("int8", teacher, other, seed=0, resamples=10_000)
    assert found["int8_minus_teacher_points"] == -2.0
    # Of 400 pairs, 8 are worse and none better: a standard error of 0.7 points.
    assert found["int8_minus_teacher_points_low"] == pytest.approx(-3.4, abs=0.3)
    assert found["int8_minus_teacher_points_high"] == pytest.approx(-0.75, abs=0.3)


def test_the_same_answers_cost_nothing() -> None:
    right = np.array([True, False, True])
    assert set(lost("int8", right, right, seed=0, resamples=10).values()) == {0.0}


def test_latency_is_of_every_model_and_batch_size(tmp_path: Path) -> None:
    x = tiny.samples(5).x
    to_onnx(tiny.classifier(shape=tiny.SHAPE), x, tmp_path / "model.onnx")
    runner = OnnxRuntime(tmp_path / "model.onnx", 1)
    found = latency({"one": runner, "two": runner}, x, warmup=1, rounds=5)
    assert set(found) == {"one", "two"}
    for times in found.values():
        for size in evaluate.BATCH_SIZES:
            p10, median, p90 = (times[f"batch_{size}_{k}_ms"] for k in ("p10", "median", "p90"))
            assert 0 < p10 <= median <= p90


def test_the_engine_is_counted_against_what_onnx_runtime_said() -> None:
    require_compiler()
    x, model = tiny.samples(40).x, integer.to_integers(quantized())
    said = TorchRuntime(model)(x).logits.argmax(1)
    engine, told = in_engine("int8", model, 1, x, 16, said)
    assert isinstance(engine, EngineClassifier)
    assert told["classes_that_differ"] <= 2  # of which two classes are as likely
    other = EngineClassifier(model)(x).logits.argmax(1)
    other[7] += 1
    _, told = in_engine("int8", model, 1, x, 16, other)
    assert told == {"classes_that_differ": 1}


def test_what_the_engine_does_not_run_is_missing_with_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    require_compiler()
    x, model = tiny.samples(4).x, tiny.classifier(shape=tiny.SHAPE)
    engine, told = in_engine("int8", model, 1, x, 4, np.zeros(4, np.int64))
    assert engine is None and told == {"missing": "the engine runs int8 models: this one is not quantized"}
    assert "int8 is not measured in the engine: the engine runs int8 models" in caplog.text


def test_refuses_a_model_of_other_classes(modality: Modality, ingested: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    models.save(Classifier(Encoder(modality, tiny.SHAPE), ["x", "y"]), tmp_path)
    with pytest.raises(BadInput, match=r"the teacher knows the classes \['x', 'y'\]"):
        evaluate.main(
            modality,
            ingested,
            *[tmp_path] * 6,
            batch_size=8,
            calibration=8,
            resamples=10,
            warmup=0,
            rounds=1,
            seed=0,
            threads=1,
        )
