import json
from pathlib import Path

import pytest
import torch
from conftest import Kind
from tiny_trunk import SHAPE, encoder, some_samples

from winnow.data import store
from winnow.data.modality import Modality, build
from winnow.ssl import model as models
from winnow.ssl.model import Classifier
from winnow.ssl.trunk import Encoder

# --- save and load ------------------------------------------------------------------------------


@pytest.mark.parametrize("headed", [False, True])
def test_a_model_comes_back_as_it_was_saved(
    modality: Modality, ingested: Path, tmp_path: Path, headed: bool
) -> None:
    model: Encoder | Classifier = encoder(modality)
    if headed:
        model = Classifier(model, ["b", "a", "ä"]).eval()
    x = some_samples(modality, ingested)
    models.save(model, tmp_path, pattern={"block": [1, 4]})
    back = models.load(tmp_path)
    assert type(back) is type(model)
    assert not any(module.training for module in back.modules())
    assert torch.equal(models.load_encoder(tmp_path).embed(x), model_encoder(model).embed(x))
    assert models.read_notes(tmp_path) == {"pattern": {"block": [1, 4]}}
    trunk = model_encoder(back)
    assert trunk.shape == SHAPE
    assert models.section(trunk.modality) == models.section(modality)
    if headed:
        again = models.load_classifier(tmp_path)
        assert again.classes == ["b", "a", "ä"]
        assert torch.equal(again(x), model(x))


def model_encoder(model: Encoder | Classifier) -> Encoder:
    return model.encoder if isinstance(model, Classifier) else model


def test_saving_twice_writes_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        models.save(encoder(), tmp_path / name)
    for file in ("model.safetensors", "config.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_a_section_rebuilds_an_equal_modality(modality: Modality, ingested: Path, kind: Kind) -> None:
    section = models.section(modality)
    assert json.loads(json.dumps(section)) == section
    again = build(section)
    assert type(again) is type(modality)
    assert again.grid == modality.grid
    assert models.section(again) == section
    for name, value in kind.section["init_args"].items():
        assert section["init_args"][name] == value
    _, payload = next(iter(store.payloads(ingested)))
    assert torch.equal(again.load(payload), modality.load(payload))
    one, two = (
        m.transform(m.load(payload), torch.Generator().manual_seed(0), 1.0) for m in (modality, again)
    )
    assert torch.equal(one, two)


def test_a_folder_without_a_model_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        models.load(tmp_path)


def test_an_encoder_is_no_classifier(tmp_path: Path) -> None:
    models.save(encoder(), tmp_path)
    with pytest.raises(ValueError, match="encoder without a head"):
        models.load_classifier(tmp_path)


def test_weights_that_do_not_fit_the_architecture_are_an_error(tmp_path: Path) -> None:
    models.save(encoder(), tmp_path)
    config = store.read_json(tmp_path / "config.json")
    for key, value in (("layers", 3), ("layers", 1), ("dim", 32)):
        store.write_json(tmp_path / "config.json", {**config, "shape": {**config["shape"], key: value}})
        with pytest.raises(RuntimeError, match="state_dict"):
            models.load(tmp_path)
