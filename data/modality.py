"""The interface: all that winnow must know about one kind of data."""

import abc
import importlib
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt16
from torch import Generator, Tensor, nn


class Reject(Exception):
    """A sample that cannot be used; its message is the reason, in words for the data's owner."""


class Decoded(NamedTuple):
    """What `decode` keeps of a raw datum.

    Attributes:
        payload: the datum in the modality's one canonical encoding, as the store keeps it.
        measures: what was seen on the way in (brightness, seconds, …), by name with its unit.
    """

    payload: bytes
    measures: dict[str, float]


class Tokens(NamedTuple):
    """What every trunk reads: a batch of token vectors on the modality's grid.

    Attributes:
        x: the tokens, row-major over the grid.
        valid: False where a token is padding.
    """

    x: Float[Tensor, "batch token dim"]
    valid: Bool[Tensor, "batch token"]


class Modality(abc.ABC):
    """One kind of data. Holds no training logic; a subclass is final.

    After `frontend` nothing knows the kind any more: an image is a 2-D grid of tokens, a recording
    or a text a 1-D one.

    Attributes:
        suffixes: endings of the files that a folder of such data holds, lower case with the dot.
        media_type: MIME type of a payload, as a browser plays or shows it.
        min_agreement: share of equal entries of two signatures from which the samples are nearly equal.
        grid: tokens along each axis.
        files: arguments that name a file, which has to go where the model goes.
    """

    files: ClassVar[tuple[str, ...]] = ()
    suffixes: ClassVar[frozenset[str]]
    media_type: ClassVar[str]
    min_agreement: ClassVar[float]
    grid: tuple[int, ...]

    @abc.abstractmethod
    def decode(self, raw: bytes) -> Decoded:
        """Read one raw datum, as a source delivers it.

        Raises:
            Reject: if it cannot be read or holds nothing to learn from.
        """

    @abc.abstractmethod
    def cuts(self, measures: Mapping[str, float]) -> bool:
        """Say whether a network sees only a part of a sample, of which `decode` measured this.

        What was written about all of it would then be wrong.
        """

    @abc.abstractmethod
    def load(self, payload: bytes) -> Tensor:
        """Turn a payload into x, the tensor a batch is stacked from: one shape for all samples."""

    @abc.abstractmethod
    def transform(self, x: Tensor, generator: Generator, strength: float) -> Tensor:
        """Draw one random training variant of x that keeps its meaning.

        Args:
            x: what `load` gave.
            generator: decides which.
            strength: how far variants go; 1: as far as nobody would mind, 0: nowhere.
        """

    @abc.abstractmethod
    def draw(self, generator: Generator) -> Tensor:
        """Draw an x that means nothing and fills the whole grid: to time a network with."""

    @abc.abstractmethod
    def descriptor(self, payload: bytes) -> Float32[np.ndarray, " feature"]:
        """Describe a sample by a cheap vector that needs no model: the evidence of round 1."""

    @abc.abstractmethod
    def identity(self, payload: bytes) -> bytes:
        """Digest what a sample is, beyond its encoding, to 16 bytes: equal samples have equal ones."""

    @abc.abstractmethod
    def signature(self, payload: bytes) -> UInt16[np.ndarray, " entry"]:
        """Give values of which nearly equal samples share most, and others few.

        As many for every sample; none where only vectors tell what is nearly equal.
        """

    @abc.abstractmethod
    def frontend(self, dim: int) -> nn.Module:
        """Make the module that turns a batch of x into `Tokens` of width `dim`."""

    @abc.abstractmethod
    def preview(self, payload: bytes) -> str:
        """Show a sample to a person: a self-contained, escaped piece of HTML."""


def build(section: Mapping[str, Any]) -> Modality:
    """Make the modality that a `class_path`/`init_args` section of params.yaml names.

    Raises:
        ValueError: if the section names no final subclass of `Modality`.
    """
    module, _, name = section["class_path"].rpartition(".")
    found = getattr(importlib.import_module(module), name, None)
    if not (isinstance(found, type) and issubclass(found, Modality)):
        raise ValueError(f"class_path {section['class_path']!r} names no Modality")
    return found(**section.get("init_args", {}))
