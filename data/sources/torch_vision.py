"""The dataset classes of torchvision."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, final

import torchvision.datasets
from PIL import Image, ImageOps

from winnow.data.modality import Reject
from winnow.data.sources.records import Record, Source, as_name, read_file
from winnow.data.sources.torch_datasets import (
    DatasetClass,
    Place,
    Splits,
    below,
    group_at,
    label_at,
    parts_of,
    read_row,
)
from winnow.data.stage import BadInput

_PNG_MODES = {"1", "L", "LA", "P", "RGB", "RGBA", "I;16"}
# The values of the argument `split`, of classes that have one.
_SPLITS = {
    **dict.fromkeys(("FER2013", "Food101", "GTSRB", "STL10", "SVHN", "StanfordCars"), "train test"),
    **dict.fromkeys(("DTD", "FGVCAircraft", "Flowers102", "PCAM", "RenderedSST2"), "train val test"),
    **dict.fromkeys(("CelebA", "Country211"), "train valid test"),
    **dict.fromkeys(("CLEVRClassification", "ImageNet", "Imagenette"), "train val"),
    "OxfordIIITPet": "trainval test",
    "Places365": "train-standard val",
}
# What these take without saying so in their signature.
_TAKES = {"EMNIST": ["train", "download"], "ImageNet": ["loader"]}


@final
class Torchvision(Source):
    """A dataset class of torchvision.

    Where the class lets its caller load the images' files, a datum is the file as it is; elsewhere
    the image that the class gives, as a PNG. What the class itself leaves out, it alone knows.

    Args:
        dataset: its name in `torchvision.datasets`.
        splits: for each of train, validation and test the arguments that give it; None reads all
            that the class is known to have, in one piece if it has none.
        arguments: what else the class is made with.
        label: place in a target of several parts, from 0, or of several places, joined by a space.
        group: place in the target, or the class's attribute with an entry for each sample.
        classes: names of the classes by their number; None takes those that the class knows.
        download: whether the class may fetch what is not there.
    """

    def __init__(
        self,
        dataset: str,
        splits: Splits | None = None,
        arguments: dict[str, Any] | None = None,
        label: Place | list[Place] | None = None,
        group: Place | None = None,
        classes: list[str] | None = None,
        download: bool = False,
    ) -> None:
        self.label, self.group, self.classes = label, group, classes
        takes = _TAKES.get(dataset, [])
        self._class = DatasetClass(torchvision.datasets, dataset, arguments, download, *takes)
        known = "" if "train" in takes else _SPLITS.get(dataset, "")
        self._splits = self._class.splits(splits, known, "train" if "train" in takes else "split")

    def records(self, raw: Path, suffixes: frozenset[str]) -> Iterator[Record]:
        root = raw.resolve()
        for split, arguments in self._splits.items():
            for where, dataset, number in self._class.rows(raw, split, arguments):
                label = group = None
                try:
                    image, target = read_row(dataset, number)[:2]
                    # Classes that are handed `Path` to load files by give the path.
                    if isinstance(image, Path):
                        where = below(image, root)
                        content = read_file(image, root, suffixes)
                    else:
                        content = _png(image)
                    parts = parts_of(target)
                    group = group_at(dataset, number, parts, self.group)
                    label = self._label(dataset, parts)
                except Reject as reject:
                    yield Record(where, None, str(reject), label, split, group)
                else:
                    yield Record(where, content, None, label, split, group)

    def _label(self, dataset: Any, parts: list[Any]) -> str | None:
        if self.label is not None:
            return label_at(parts, self.label)
        number = parts[0] if len(parts) == 1 else parts
        if not isinstance(number, int | str | None):
            raise BadInput(
                f"the target of {type(dataset).__name__} is a {type(number).__name__} of "
                f"{len(parts)} parts: say with the key 'label' at which place, from 0, the class stands"
            )
        known = getattr(dataset, "classes", None) or getattr(dataset, "categories", None)
        names = self.classes or known
        if not isinstance(number, int) or not names:
            return as_name(number)
        if number < 0:
            return None  # how torchvision marks what has no class
        if number >= len(names):
            raise Reject(f"class {number} is none of the {len(names)} classes")
        # ImageNet's classes are tuples of names that mean the same.
        return as_name(names[number] if isinstance(names[number], str) else names[number][0])


def _png(image: Any) -> bytes:
    if not isinstance(image, Image.Image):
        raise Reject(f"the dataset class gives a {type(image).__name__} where an image should be")
    try:
        with image:
            upright = ImageOps.exif_transpose(image)  # a PNG would not keep how it has to be turned
    except Exception as error:  # opened, but not read until now
        raise Reject(f"the image is truncated or broken: {error}") from error
    file = io.BytesIO()
    (upright if upright.mode in _PNG_MODES else upright.convert("RGB")).save(file, "PNG")
    return file.getvalue()
