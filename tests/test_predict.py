import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from conftest import Kind, png
from test_bundle import CARD, kept
from test_quantize import quantized

from winnow.compress import bundle, fakequant, predict
from winnow.compress.engine import library
from winnow.compress.predict import Unreadable, load
from winnow.compress.runtimes import TorchRuntime
from winnow.data import store
from winnow.data.modality import Modality
from winnow.ssl.model import Classifier
from winnow.ssl.trunk import Encoder

CLASSES = ["a", "b", "c"]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of its own, with the engine in it where there is one."""
    folder = tmp_path_factory.mktemp("cache")
    with contextlib.suppress(library.Unavailable):
        shutil.copy(library.locate(), folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WINNOW_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module")
def shipped(
    modality: Modality, ingested: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Classifier, Path]:
    """A bundle, and the model in it: trained by nobody, but observed."""
    out = tmp_path_factory.mktemp("predict")
    torch.manual_seed(0)
    model = Classifier(Encoder(modality, tiny.SHAPE), CLASSES)
    fakequant.fake_quantize(model)
    model.train()(torch.stack([modality.load(payload) for _, payload in store.payloads(ingested)]))
    integers = kept(model.eval(), out)
    bundle.write(out, CARD, out / "model.winnow")
    return integers, out / "model.winnow"


@pytest.fixture(scope="module")
def files(kind: Kind, raw: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Raw data, a file for each datum."""
    if raw.is_dir():
        return sorted(path for path in raw.rglob("*") if path.suffix in {".png", ".wav"})[:10]
    out = tmp_path_factory.mktemp("texts")
    for number, line in enumerate(raw.read_text().splitlines()[:10]):
        (out / f"{number}.txt").write_text(json.loads(line)["text"])
    return sorted(out.iterdir())


def test_reads_raw_data_as_training_did(
    shipped: tuple[Classifier, Path], files: list[Path], modality: Modality
) -> None:
    found = load(shipped[1], runtime="torch")(files, batch_size=4)
    x = torch.stack([modality.load(modality.decode(path.read_bytes()).payload) for path in files])
    said = TorchRuntime(shipped[0])(x)
    assert np.allclose(found.probs, torch.from_numpy(said.logits).softmax(1).numpy(), atol=1e-5)
    assert np.allclose(found.embedding, said.embedding, atol=1e-5)
    assert found.classes == [CLASSES[i] for i in said.logits.argmax(1)]
    assert np.allclose(found.probs.sum(1), 1, atol=1e-6)


def test_takes_a_file_or_what_is_in_it_one_or_many(
    shipped: tuple[Classifier, Path], files: list[Path]
) -> None:
    model = load(str(shipped[1]))
    wanted = model(files[0]).probs
    content = files[0].read_bytes()
    # Texts are said as they are; of all else, a str is where it lies.
    spoken = content.decode() if model.reads_texts else str(files[0])
    for raw in (content, spoken, [files[0]], [content]):
        assert np.array_equal(model(raw).probs, wanted)
    assert model(files[:3]).probs.shape == (3, 3)
    assert model.card == CARD


def test_what_cannot_be_read_is_named(shipped: tuple[Classifier, Path], tmp_path: Path) -> None:
    model = load(shipped[1])
    (tmp_path / "broken.bin").write_bytes(b"\xff\x00\xfe")
    with pytest.raises(Unreadable, match=r"broken\.bin: .+"):
        model([tmp_path / "broken.bin"])
    with pytest.raises(Unreadable, match=r"absent\.bin: No such file"):
        model(tmp_path / "absent.bin")
    with pytest.raises(Unreadable, match="the datum: "):
        model(b"")
    with pytest.raises(ValueError, match="nothing to predict"):
        model([])


def test_a_line_for_each_file_and_an_error_for_those_that_cannot_be_read(
    shipped: tuple[Classifier, Path], files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.bin").write_bytes(b"\xff\x00\xfe")
    asked = [str(shipped[1]), *map(str, files[:3]), str(tmp_path / "broken.bin"), "--batch-size", "2"]
    asked += ["--runtime", "torch"]
    assert predict.main([*asked, "--top", "2"]) == 1
    said = capsys.readouterr()
    rows = [line.split("\t") for line in said.out.splitlines()]
    assert [row[0] for row in rows] == [str(path) for path in files[:3]]
    wanted = load(shipped[1], runtime="torch")(files[:3])
    assert [row[1] for row in rows] == wanted.classes
    assert [len(row) for row in rows] == [5, 5, 5]
    assert [float(row[2]) for row in rows] == pytest.approx(wanted.probs.max(1).tolist(), abs=1e-4)
    (line,) = said.err.splitlines()
    assert line.startswith(f"{tmp_path / 'broken.bin'}: ")


def test_json_holds_probabilities_and_the_embedding(
    shipped: tuple[Classifier, Path], files: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [str(shipped[1]), str(files[0]), "--json", "--embedding", "--top", "9", "--runtime", "torch"]
    assert predict.main(asked) == 0
    told = json.loads(capsys.readouterr().out)
    wanted = load(shipped[1], runtime="torch")(files[0])
    assert told["name"] == str(files[0]) and told["class"] == wanted.classes[0]
    assert told["probs"] == pytest.approx(dict(zip(CLASSES, wanted.probs[0].tolist(), strict=True)), abs=1e-5)
    assert told["embedding"] == pytest.approx(wanted.embedding[0].tolist(), abs=1e-5)


def test_standard_input_is_a_datum_or_one_for_each_line(
    shipped: tuple[Classifier, Path],
    files: list[Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def given(content: bytes, *more: str) -> list[list[str]]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        assert predict.main([str(shipped[1]), "-", "--runtime", "torch", *more]) == 0
        return [line.split("\t") for line in capsys.readouterr().out.splitlines()]

    model = load(shipped[1], runtime="torch")
    assert given(files[0].read_bytes())[0][:2] == ["-", *model(files[0]).classes]
    if model.reads_texts:
        rows = given(b"waves and tides\n\nthe king\r\n", "--lines")
        assert [row[0] for row in rows] == ["-:1", "-:3"]
        assert [row[1] for row in rows] == model(["waves and tides", "the king"]).classes


def test_a_model_that_cannot_be_read_is_one_line_and_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.winnow").write_bytes(b"nothing")
    for name in ("bad.winnow", "absent.winnow", "absent.onnx"):
        assert predict.main([str(tmp_path / name), "x"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("predict: ") and name in line


def test_card_is_shown_without_any_file_and_says_what_runs(
    shipped: tuple[Classifier, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict.main([str(shipped[1]), "--card"]) == 0
    told = json.loads(capsys.readouterr().out)
    runs = told.pop("runtime")
    assert told == CARD
    model = load(shipped[1], threads=1, batch_size=32)
    assert runs == {"name": model.runtime_name, "threads": 1, "median_ms": model.median_ms}


def test_runs_in_a_process_of_its_own_without_what_only_training_needs_and_without_a_compiler(
    tmp_path: Path,
) -> None:
    kept(quantized(), tmp_path)
    bundle.write(tmp_path, CARD, tmp_path / "model.winnow")
    (tmp_path / "grey.png").write_bytes(png(np.full((8, 8), 99, np.uint8)))
    code = f"""
import sys
import winnow.data.speech, winnow.data.text
from winnow.compress import predict
status = predict.main([{str(tmp_path / "model.winnow")!r}, {str(tmp_path / "grey.png")!r}])
heavy = {{"lightning", "dvc", "cleanlab", "sklearn", "onnx", "onnxruntime", "ray", "faiss", "torchmetrics"}}
print(sorted(heavy & set(sys.modules)))
sys.exit(status)
"""
    nothing = {**os.environ, "PATH": str(tmp_path), "CXX": ""}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=nothing)
    assert done.returncode == 0, done.stderr
    line, heavy = done.stdout.splitlines()
    assert line.startswith(str(tmp_path / "grey.png")) and heavy == "[]"
    if not library.beside().exists():  # one that came along needs no compiler
        (told,) = done.stderr.splitlines()
        assert told.startswith("predict: engine is left out: no C++ compiler")
