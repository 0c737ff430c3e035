import inspect

import numpy as np
import pytest
import torch
import torchaudio.datasets
import torchvision.datasets

from winnow.data.sources import torch_audio, torch_vision
from winnow.data.sources.torch_audio import Torchaudio
from winnow.data.sources.torch_datasets import DatasetClass, label_at, parts_of
from winnow.data.sources.torch_vision import Torchvision


def test_what_is_known_of_classes_is_true_of_the_installed_libraries():
    for name, values in torch_vision._SPLITS.items():
        found = getattr(torchvision.datasets, name)
        assert "split" in inspect.signature(found).parameters and values
        assert set(Torchvision(name)._splits) <= {"train", "validation", "test"}
    for name, layout in torch_audio._LAYOUTS.items():
        takes = inspect.signature(getattr(torchaudio.datasets, name)).parameters
        assert not layout.splits or layout.key in takes


@pytest.mark.parametrize("name", ["MNIST", "CIFAR10", "USPS", "KMNIST", "QMNIST", "EMNIST"])
def test_a_class_that_takes_train_has_train_and_test(name: str):
    arguments = {"split": "letters"} if name == "EMNIST" else None
    found = Torchvision(name, arguments=arguments)._splits
    assert found == {"train": {"train": True}, "test": {"train": False}}


def test_a_split_that_is_chosen_by_arguments_is_the_only_one():
    assert Torchvision("SVHN", arguments={"split": "extra"})._splits == {None: {}}
    assert Torchaudio("GTZAN", arguments={"subset": "training"})._splits == {None: {}}
    assert Torchaudio("LIBRISPEECH")._splits == {None: {}}


def test_what_cannot_be_made_is_refused_with_the_remedy():
    with pytest.raises(ValueError, match=r"torchvision.datasets has no dataset 'MNITS'; it has .*MNIST"):
        Torchvision("MNITS")
    with pytest.raises(ValueError, match="has no dataset 'wrap_dataset_for_transforms_v2'"):
        Torchvision("wrap_dataset_for_transforms_v2")
    with pytest.raises(ValueError, match=r"splits names \['trian'\], not train, validation or test"):
        Torchaudio("SPEECHCOMMANDS", splits={"trian": {}})
    with pytest.raises(ValueError, match=r"which splits .*Sintel has is not known here.*splits:"):
        Torchvision("Sintel")
    with pytest.raises(ValueError, match="ImageFolder cannot download"):
        Torchvision("ImageFolder", download=True)
    Torchvision("EMNIST", arguments={"split": "letters"}, download=True)


def test_a_class_is_found_by_its_name_alone():
    made = DatasetClass(torchvision.datasets, "FakeData", {"size": 2}, False)
    assert made.splits(None, "", "split") == {None: {}}


@pytest.mark.parametrize(
    ("target", "parts"),
    [
        (3, [3]),
        ("cat", ["cat"]),
        (None, [None]),
        (torch.tensor(3), [3]),
        (torch.tensor([3, 4]), [3, 4]),
        (np.int64(3), [3]),
        ((torch.tensor([5]), np.float32(0.5), "x"), [5, 0.5, "x"]),
    ],
)
def test_targets_come_apart_into_numbers_of_python(target: object, parts: list[object]):
    found = parts_of(target)
    assert found == parts and [type(part) for part in found] == [type(part) for part in parts]


def test_several_places_are_one_label():
    assert label_at(["set", "light", "kitchen"], [0, 1, 2]) == "set light kitchen"
    assert label_at(["set", "", None], [0, 1, 2]) == "set"
    assert label_at([{"a": 1}, {"b": 2}], "b") == "2"
