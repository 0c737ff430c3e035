import shutil
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from compiling import require_compiler
from conftest import Kind
from test_bundle import CARD, kept
from test_export import trained

from winnow.compress import bundle, fakequant, serving
from winnow.compress.engine import library
from winnow.compress.predict import load
from winnow.data import store
from winnow.data.modality import Modality
from winnow.data.speech import Waveform
from winnow.ssl.model import Classifier
from winnow.ssl.trunk import Encoder

require_compiler()
from test_engine_encoder import apart, noise_floor  # noqa: E402


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of its own, with the engine in it."""
    folder = tmp_path_factory.mktemp("cache")
    shutil.copy(library.locate(), folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WINNOW_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("serving")
    kept(trained(tiny.classifier(), tiny.samples(64).x), out)
    bundle.write(out, CARD, out / "model.winnow")
    return out / "model.winnow"


def test_the_engine_says_of_every_kind_of_data_what_torch_says(
    modality: Modality, ingested: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = Classifier(Encoder(modality, tiny.SHAPE), ["a", "b", "c"])
    fakequant.fake_quantize(model)
    x = torch.stack([modality.load(payload) for _, payload in store.payloads(ingested)])
    model.train()(x)
    integers = kept(model.eval(), tmp_path)
    bundle.write(tmp_path, CARD, tmp_path / "model.winnow")
    one, other = (load(tmp_path / "model.winnow", runtime=name) for name in ("engine", "torch"))
    assert (one.runtime_name, other.runtime_name) == ("engine", "torch")
    found, wanted = one.predict(x), other.predict(x)
    floor = 3 * noise_floor(integers, x) + 1e-3
    assert apart(one.runtime(x).logits, other.runtime(x).logits) < floor
    assert np.abs(found.probs - wanted.probs).max() < floor
    # Where two classes are as likely as noise lets tell, either may be said.
    first, second = np.sort(wanted.probs, 1)[:, :-3:-1].T
    sure = first - second > 2 * floor
    assert [c for c, s in zip(found.classes, sure, strict=True) if s] == [
        c for c, s in zip(wanted.classes, sure, strict=True) if s
    ]


def test_auto_is_the_fastest_of_what_is_here_and_onnx_is_once_its_form_was_made(
    shipped: Path, cache: Path
) -> None:
    first = load(shipped, threads=1)
    assert set(first.median_ms) == {"engine", "torch"}
    assert first.runtime_name == min(first.median_ms, key=first.median_ms.__getitem__)
    assert load(shipped, threads=1).median_ms == first.median_ms

    x = tiny.samples(40).x
    onnx = load(shipped, threads=1, runtime="onnx")
    (form,) = cache.glob("model-*.onnx")
    made = form.stat().st_mtime_ns
    assert onnx.runtime_name == "onnx" and onnx.median_ms == {}
    assert onnx.predict(x).classes == load(shipped, threads=1, runtime="torch").predict(x).classes
    assert set(load(shipped, threads=1).median_ms) == {"engine", "onnx", "torch"}
    assert load(shipped, threads=1, runtime="onnx").classes == onnx.classes
    assert form.stat().st_mtime_ns == made

    # The file by itself is the same model, and runs in nothing else.
    assert load(form).runtime_name == "onnx"
    with pytest.raises(ValueError, match=r"runs in ONNX Runtime, not in 'engine': .* bundle"):
        load(form, runtime="engine")


def test_a_runtime_that_nobody_knows_is_named_with_those_that_are(shipped: Path) -> None:
    with pytest.raises(ValueError, match="one of auto, engine, onnx, torch, not 'tflite'"):
        load(shipped, runtime="tflite")


def test_batches_of_another_size_are_measured_by_themselves(shipped: Path, cache: Path) -> None:
    before = set(cache.glob("runtimes-*.json"))
    load(shipped, threads=1, batch_size=3)
    (record,) = set(cache.glob("runtimes-*.json")) - before
    told = store.read_json(record)
    assert told["batch_size"] == 3 and told["threads"] == 1
    assert told["torch"] == version("torch") and told["engine"] == library.source_hash()


def test_what_is_drawn_is_like_a_sample_that_fills_the_grid(
    kind: Kind, modality: Modality, ingested: Path
) -> None:
    waveform = Waveform(sample_rate_hz=1000, seconds=0.3, convolutions=[[8, 10, 5], [8, 3, 2]])
    for one in (modality, waveform) if kind.name == "speech" else (modality,):
        torch.manual_seed(0)
        x = serving.drawn(Classifier(Encoder(one, tiny.SHAPE), ["a"]), 3)
        assert one.frontend(16)(x).valid.all()
        assert torch.equal(x, serving.drawn(Classifier(Encoder(one, tiny.SHAPE), ["a"]), 3))
        assert not torch.equal(x[0], x[1])
    _, payload = next(iter(store.payloads(ingested)))
    sample, drawn = modality.load(payload), modality.draw(torch.Generator().manual_seed(0))
    assert (drawn.shape, drawn.dtype) == (sample.shape, sample.dtype)
