import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from test_quantize import quantized
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers import models as words

from winnow.compress import bundle, fakequant, integer
from winnow.data.modality import Modality
from winnow.data.text import Subwords
from winnow.ssl import model as models
from winnow.ssl.model import Classifier
from winnow.ssl.trunk import Encoder

CARD = {"accuracy": 0.9, "about": "für alle"}


def kept(model: Classifier, out: Path) -> Classifier:
    """Leave in a folder what quantize leaves of a fake-quantized classifier."""
    out.mkdir(exist_ok=True)
    integers = integer.to_integers(model)
    models.save(tiny.classifier(), out)
    config = json.loads((out / "config.json").read_text())
    config |= {"classes": model.classes, "modality": models.section(model.encoder.modality)}
    (out / "config.json").write_text(json.dumps(config))
    integer.save(integers, out / "quantized.safetensors")
    return integers


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Classifier, Path]:
    out = tmp_path_factory.mktemp("bundle")
    model = kept(quantized(), out)
    bundle.write(out, CARD, out / "model.winnow")
    return model, out


def test_gives_back_the_model_to_the_bit_and_its_card(written: tuple[Classifier, Path]) -> None:
    model, out = written
    held = bundle.load(out / "model.winnow")
    assert held.card == CARD
    assert held.model.classes == model.classes
    for name, tensor in model.state_dict().items():
        assert torch.equal(held.model.state_dict()[name], tensor)
    x = tiny.samples(16).x
    assert torch.equal(held.model(x), model(x))


def test_gives_back_every_kind_of_classifier(modality: Modality, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Classifier(Encoder(modality, tiny.SHAPE), ["a", "b", "ç"])
    fakequant.fake_quantize(model)
    payloads = {"Vision": torch.rand(2, 1, 16, 16), "Speech": torch.rand(2, 50, 16)}
    x = payloads.get(type(modality).__name__, torch.randint(0, 512, (2, 24)))
    model.train()(x)
    integers = kept(model.eval(), tmp_path)
    bundle.write(tmp_path, CARD, tmp_path / "model.winnow")
    again = bundle.load(tmp_path / "model.winnow").model
    assert again.classes == ["a", "b", "ç"]
    assert models.section(again.encoder.modality) == models.section(modality)
    assert torch.equal(again(x), integers(x))


def test_carries_the_tokenizer_that_its_texts_are_read_with(tmp_path: Path) -> None:
    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "sea": 4, "king": 5}
    made = Tokenizer(words.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    source = tmp_path / "source" / "tokenizer.json"
    source.parent.mkdir()
    made.save(str(source))
    model = Classifier(Encoder(Subwords(str(source), length=6), tiny.SHAPE), ["a", "b"])
    fakequant.fake_quantize(model)
    model.train()(torch.randint(0, 6, (8, 6)))
    integers = kept(model.eval(), tmp_path)
    bundle.write(tmp_path, CARD, tmp_path / "model.winnow")
    source.unlink()

    again = bundle.load(tmp_path / "model.winnow").model
    x = again.encoder.modality.load(b"the king of the sea")
    assert x.tolist() == [3, 5, 3, 3, 4, 0]
    assert torch.equal(again(x[None]), integers(x[None]))


def test_is_a_zip_that_anyone_can_look_into(written: tuple[Classifier, Path]) -> None:
    with zipfile.ZipFile(written[1] / "model.winnow") as file:
        assert file.namelist() == [bundle.CONFIG, bundle.CARD, bundle.WEIGHTS]
        assert file.testzip() is None
        config = json.loads(file.read(bundle.CONFIG))
        assert json.loads(file.read(bundle.CARD)) == CARD
    assert config["format"] == 1 and config["classes"] == tiny.CLASSES
    assert config["modality"]["class_path"] == "winnow.data.vision.Vision"


def test_is_the_same_bytes_whenever_it_is_written(written: tuple[Classifier, Path], tmp_path: Path) -> None:
    bundle.write(written[1], CARD, tmp_path / "again.winnow")
    assert (tmp_path / "again.winnow").read_bytes() == (written[1] / "model.winnow").read_bytes()


def test_takes_no_more_than_integers_and_scales_of_eight_bits(written: tuple[Classifier, Path]) -> None:
    model = written[0]
    plain = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    assert len(bundle.weights(model)) < len(bundle.weights(model, code=False)) < plain


def rezipped(source: Path, target: Path, **changed: bytes | None) -> Path:
    """Change entries of a bundle, or leave them out, and make everything around them fit."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            content = changed.get(name.removesuffix(".json"), old.read(name))
            if content is not None:
                new.writestr(name, content)
    return target


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"weights": None}, "weights"),
        ({"config": None}, "config.json"),
        ({"config": b"{"}, "Expecting"),
        ({"config": b"[]"}, ""),
        ({"config": b"{}"}, "'format' is missing"),
        ({"weights": b"not weights"}, "no packed tensors"),
        ({"card": b"\xff"}, ""),
    ],
)
def test_a_part_that_is_missing_or_broken_is_an_error_that_names_the_file(
    written: tuple[Classifier, Path], tmp_path: Path, changed: dict[str, bytes | None], message: str
) -> None:
    path = rezipped(written[1] / "model.winnow", tmp_path / "broken.winnow", **changed)
    with pytest.raises(ValueError, match=rf"broken\.winnow is no bundle .*{message}"):
        bundle.load(path)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (["format"], 2),
        (["modality", "class_path"], "os.path.Vision"),
        (["modality", "class_path"], "winnow.data.store.Kind"),
        (["modality", "init_args", "size"], 2**40),
        (["modality", "init_args", "size"], "8"),
        (["modality", "init_args", "tokenizer"], "files/absent"),
        (["shape", "dim"], 2**30),
        (["shape", "dim"], 18),
        (["shape", "layers"], 10**9),
        (["shape", "layers"], 1),
        (["shape", "heads"], 0),
        (["shape", "heads"], 7),
        (["shape", "unknown"], 1),
        (["shape", "mlp_ratio"], 1e300),
        (["shape", "slices"], [{"heads": [0], "channels": 2**40}, {"heads": [0], "channels": 4}]),
        (["shape", "slices"], [{"heads": [0], "channels": 2**40}, {"heads": [0], "channels": 4 - 2**40}]),
        (["shape", "slices"], [{"heads": [0], "channels": 4}, {"heads": [0], "channels": 4}]),
        (["shape", "slices"], None),
        (["classes"], None),
        (["classes"], ["one"]),
        (["classes"], 3),
    ],
)
def test_a_config_that_does_not_fit_the_weights_is_refused(
    written: tuple[Classifier, Path], tmp_path: Path, place: list[str], value: object
) -> None:
    source = written[1] / "model.winnow"
    with zipfile.ZipFile(source) as file:
        config = json.loads(file.read(bundle.CONFIG))
    inner = config
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    path = rezipped(source, tmp_path / "broken.winnow", config=json.dumps(config).encode())
    with pytest.raises(ValueError, match=r"broken\.winnow is no bundle"):
        bundle.load(path)


def test_mutated_files_are_errors_or_the_same_model(written: tuple[Classifier, Path], tmp_path: Path) -> None:
    model, out = written
    content = (out / "model.winnow").read_bytes()
    random = np.random.default_rng(0)
    path, survived = tmp_path / "mutated.winnow", 0
    for trial in range(250):
        broken = bytearray(content)
        if trial % 5 == 0:
            del broken[random.integers(len(broken)) :]
        else:
            for _ in range(random.integers(1, 4)):
                broken[random.integers(len(broken))] ^= 1 << random.integers(8)
        path.write_bytes(broken)
        try:
            found = bundle.load(path).model.state_dict()
        except ValueError as error:
            assert "mutated.winnow" in str(error)
            continue
        # A time stamp, or a permission: nothing that anyone reads.
        survived += 1
        assert all(torch.equal(found[name], tensor) for name, tensor in model.state_dict().items())
    assert survived < 50


def test_a_file_that_is_none_or_not_there(tmp_path: Path) -> None:
    (tmp_path / "a.winnow").write_bytes(b"")
    with pytest.raises(ValueError, match=r"a\.winnow is no bundle"):
        bundle.load(tmp_path / "a.winnow")
    with pytest.raises(FileNotFoundError):
        bundle.load(tmp_path / "b.winnow")
