import io
from pathlib import Path

import numpy as np
import pytest
import torchvision.datasets
from conftest import png
from PIL import Image
from rawdata import PNG, picture, read, reasons, write_idx

from winnow.data.sources.torch_vision import Torchvision
from winnow.data.stage import BadInput


def write_folder(root: Path) -> Path:
    for number, name in enumerate(("cat/1.png", "cat/2.png", "dog/1.png")):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(picture(number)))
    return root


def test_images_come_whole_with_the_names_of_their_classes_and_their_splits(tmp_path: Path):
    records = read(Torchvision("FashionMNIST"), write_idx(tmp_path, 9, 6), PNG)
    assert [r.source for r in records] == [
        *(f"FashionMNIST/train#{i}" for i in range(9)),
        *(f"FashionMNIST/test#{i}" for i in range(6)),
    ]
    assert [r.label for r in records[:4]] == ["T-shirt/top", "Trouser", "Pullover", "T-shirt/top"]
    assert [r.split for r in records] == ["train"] * 9 + ["test"] * 6
    for record, number in zip(records, [*range(9), *range(6)], strict=True):
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(record.raw or b""))), picture(number))


def test_only_the_splits_that_are_asked_for_are_read(tmp_path: Path):
    source = Torchvision("FashionMNIST", splits={"validation": {"train": False}}, classes=["a", "b"])
    records = read(source, write_idx(tmp_path, 9, 6), PNG)
    assert len(records) == 6 and {r.split for r in records} == {"validation"}
    assert set(reasons(records).values()) == {"class 2 is none of the 2 classes"}
    assert [r.label for r in records if r.reason is None] == ["a", "b", "a", "b"]


def test_a_file_comes_as_it_is(tmp_path: Path):
    root = write_folder(tmp_path)
    records = read(Torchvision("ImageFolder"), root, PNG)
    assert [(r.source, r.label, r.split) for r in records] == [
        ("cat/1.png", "cat", None),
        ("cat/2.png", "cat", None),
        ("dog/1.png", "dog", None),
    ]
    assert [r.raw for r in records] == [(root / r.source).read_bytes() for r in records]


def test_what_a_dataset_cannot_give_is_a_reject_and_the_rest_is_read(tmp_path: Path):
    root = write_folder(tmp_path / "raw")
    (tmp_path / "secret.png").write_bytes(png(picture(9)))
    (root / "dog/out.png").symlink_to(tmp_path / "secret.png")
    (root / "dog/2.bmp").write_bytes(b"")
    records = read(Torchvision("ImageFolder"), root, PNG)
    assert len(records) == 5
    assert reasons(records) == {
        "dog/2.bmp": "ending '.bmp' is none of .jpg, .png",
        "dog/out.png": "'out.png' leaves the folder of the raw data",
    }


def write_celeba(root: Path) -> Path:
    """Faces of CelebA: opened lazily, with forty attributes and an identity."""
    folder = root / "celeba"
    (folder / "img_align_celeba").mkdir(parents=True)
    names = [f"{number:06}.jpg" for number in range(1, 5)]
    for number, name in enumerate(names):
        Image.fromarray(picture(number, 64)).save(folder / "img_align_celeba" / name, "JPEG")
    (folder / "list_eval_partition.txt").write_text("".join(f"{n} {i // 2}\n" for i, n in enumerate(names)))
    (folder / "identity_CelebA.txt").write_text("".join(f"{n} {7 + i}\n" for i, n in enumerate(names)))
    places = "".join(f"{n} 0 0 1 1\n" for n in names)
    (folder / "list_bbox_celeba.txt").write_text(f"4\nx y w h\n{places}")
    (folder / "list_landmarks_align_celeba.txt").write_text(f"4\na b c d\n{places}")
    signs = "".join(f"{n} {' '.join(['-1'] * 20)} {1 - 2 * (i % 2)}\n" for i, n in enumerate(names))
    (folder / "list_attr_celeba.txt").write_text(f"4\n{' '.join(f'a{i}' for i in range(21))}\n{signs}")
    return root


@pytest.fixture
def celeba(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    # The originals are known to torchvision by their checksums; these are four images.
    monkeypatch.setattr(torchvision.datasets.CelebA, "_check_integrity", lambda self: True)
    return write_celeba(tmp_path)


SPLITS = {"train": {"split": "train"}, "validation": {"split": "valid"}}


def test_a_label_in_a_target_of_many_parts_and_a_group_in_an_attribute(celeba: Path):
    source = Torchvision("CelebA", splits=SPLITS, label=20, group="identity")
    records = read(source, celeba, PNG)
    assert [(r.label, r.group, r.split) for r in records] == [
        ("1", "7", "train"),
        ("0", "8", "train"),
        ("1", "9", "validation"),
        ("0", "10", "validation"),
    ]
    assert [r.label for r in read(Torchvision("CelebA", splits=SPLITS, label=[19, 20]), celeba, PNG)][:2] == [
        "0 1",
        "0 0",
    ]


def test_a_target_without_one_class_has_to_be_explained(celeba: Path):
    with pytest.raises(BadInput, match=r"CelebA is a list of 21 parts.*'label'"):
        read(Torchvision("CelebA", splits=SPLITS), celeba, PNG)
    with pytest.raises(BadInput, match="place 21 is none of the 21 parts"):
        read(Torchvision("CelebA", splits=SPLITS, label=21), celeba, PNG)
    with pytest.raises(BadInput, match="'who'"):
        read(Torchvision("CelebA", splits=SPLITS, label=20, group="who"), celeba, PNG)


def test_an_image_that_is_truncated_inside_a_dataset_is_a_reject(celeba: Path):
    folder = celeba / "celeba" / "img_align_celeba"
    (folder / "000001.jpg").write_bytes((folder / "000001.jpg").read_bytes()[:700])
    (folder / "000003.jpg").unlink()
    records = read(Torchvision("CelebA", splits=SPLITS, label=20), celeba, PNG)
    assert len(records) == 4
    found = reasons(records)
    assert "truncated" in found["CelebA/train#0"]
    assert found["CelebA/validation#0"].startswith("the dataset class cannot read it: FileNotFoundError")


def test_what_is_no_image_is_a_reject(tmp_path: Path):
    folder = tmp_path / "MovingMNIST"
    folder.mkdir()
    np.save(folder / "mnist_test_seq.npy", np.zeros((20, 2, 8, 8), np.uint8))
    with pytest.raises(BadInput, match="no tuple of a datum"):
        read(Torchvision("MovingMNIST", splits={"train": {}}), tmp_path, PNG)


def test_data_that_is_not_there_is_an_error_that_says_what_to_do(tmp_path: Path):
    with pytest.raises(BadInput, match=r"FashionMNIST cannot read .*unpacked.*'download: true'") as refusal:
        read(Torchvision("FashionMNIST"), tmp_path, PNG)
    assert str(tmp_path) in str(refusal.value)
    with pytest.raises(BadInput, match="is no folder"):
        read(Torchvision("FashionMNIST"), tmp_path / "file", PNG)
    write_idx(tmp_path)
    images = tmp_path / "FashionMNIST/raw/t10k-images-idx3-ubyte"
    images.write_bytes(images.read_bytes()[:-9])
    with pytest.raises(BadInput, match="FashionMNIST cannot read"):
        read(Torchvision("FashionMNIST"), tmp_path, PNG)
    with pytest.raises(BadInput, match=r"unexpected keyword argument 'trian'"):
        read(Torchvision("FashionMNIST", arguments={"trian": True}), tmp_path, PNG)


@pytest.mark.parametrize("mode", ["CMYK", "F", "I;16", "P", "RGBA", "LA", "1"])
def test_an_image_of_any_mode_becomes_a_png_that_says_the_same(mode: str):
    from winnow.data.sources.torch_vision import _png

    image = Image.fromarray(picture(1)).convert("I;16" if mode == "I;16" else mode)
    again = Image.open(io.BytesIO(_png(image)))
    expected = image if again.mode == image.mode else image.convert("RGB")
    assert np.array_equal(np.asarray(again), np.asarray(expected))
