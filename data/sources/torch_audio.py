"""The dataset classes of torchaudio."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, final

import soundfile
import torch
import torchaudio.datasets
from torch import Tensor

from winnow.data.modality import Reject
from winnow.data.sources.records import Record, Source, read_file
from winnow.data.sources.torch_datasets import (
    DatasetClass,
    Place,
    Splits,
    below,
    group_at,
    label_at,
    read_row,
)


class _Layout(NamedTuple):
    """Where a class has what; places count in the tuple that it gives, from 0.

    Attributes:
        label: the class.
        group: the speaker.
        target: the transcript.
        splits: values of the argument `key`, with a space between.
        key: the argument that chooses the split.
    """

    label: Place | list[Place] | None = None
    group: Place | None = None
    target: Place | None = None
    splits: str = ""
    key: str = "subset"


_LAYOUTS = {
    "COMMONVOICE": _Layout(None, "client_id", "sentence", "train.tsv dev.tsv test.tsv", "tsv"),
    "DR_VCTK": _Layout(None, 4, None, "train test"),
    "FluentSpeechCommands": _Layout([5, 6, 7], 3, 4, "train valid test"),  # action, object, location
    "GTZAN": _Layout(2, None, None, "training validation testing"),
    "IEMOCAP": _Layout(3, 4),
    "LIBRISPEECH": _Layout(None, 3, 2),
    "LIBRITTS": _Layout(None, 4, 3),  # normalized
    "LibriLightLimited": _Layout(None, 3, 2),
    "LibriSpeechBiasing": _Layout(None, 3, 2),
    "SPEECHCOMMANDS": _Layout(2, 3, None, "training validation testing"),
    "Snips": _Layout(5, None, 3, "train valid test"),
    "TEDLIUM": _Layout(None, 4, 2, "train dev test"),
    "VCTK_092": _Layout(None, 3, 2),
    "VoxCeleb1Identification": _Layout(2, None, None, "train dev test"),
}


class _Asked(NamedTuple):
    """What a dataset class wants to load: a file, or some frames [samples] of it."""

    path: Path
    first: int
    frames: int | None


@final
class Torchaudio(Source):
    """A dataset class of torchaudio.

    A datum is the file as it is, or, where the class cuts recordings, its part as a WAV; of several
    recordings the first. TorchCodec is not needed. What the class itself leaves out, it alone knows.

    Args:
        dataset: its name in `torchaudio.datasets`.
        splits: for each of train, validation and test the arguments that give it; None reads all
            that the class is known to have, in one piece if it has none.
        arguments: what else the class is made with.
        label: place in the tuple that the class gives, from 0, or key in its dictionary, or several
            of them, joined by a space; None takes what is known of the class.
        group: the same for the group, or the class's attribute with an entry for each recording.
        target: place or key of the transcript, or of another target; None takes what is known of the class.
        download: whether the class may fetch what is not there.
    """

    def __init__(
        self,
        dataset: str,
        splits: Splits | None = None,
        arguments: dict[str, Any] | None = None,
        label: Place | list[Place] | None = None,
        group: Place | None = None,
        target: Place | None = None,
        download: bool = False,
    ) -> None:
        known = _LAYOUTS.get(dataset, _Layout())
        self.label = known.label if label is None else label
        self.group = known.group if group is None else group
        self.target = known.target if target is None else target
        self._class = DatasetClass(torchaudio.datasets, dataset, arguments, download)
        self._splits = self._class.splits(splits, known.splits, known.key)

    def records(self, raw: Path, suffixes: frozenset[str]) -> Iterator[Record]:
        root = raw.resolve()
        for split, arguments in self._splits.items():
            for where, dataset, number in self._class.rows(raw, split, arguments):
                label = group = target = None
                content: bytes | None = None
                reason: str | None = None
                asked: list[_Asked] = []
                try:
                    with _loads_into(asked):
                        parts = read_row(dataset, number)
                    if not asked:
                        raise Reject("the dataset class loads no recording for it")
                    label = None if self.label is None else label_at(parts, self.label)
                    group = group_at(dataset, number, parts, self.group)
                    target = None if self.target is None else label_at(parts, self.target)
                    content = _read(asked[0], root, suffixes)
                except Reject as reject:
                    reason = str(reject)
                if asked and asked[0].frames is None:
                    where = below(asked[0].path, root)
                yield Record(where, content, reason, label, split, group, target=target)


@contextmanager
def _loads_into(asked: list[_Asked]) -> Iterator[None]:
    """Have dataset classes note what they load, instead of decoding it.

    They decode by `torchaudio.load`, which needs TorchCodec and FFmpeg and would leave samples
    alone; wanted is the file.
    """

    def load(uri: Any, frame_offset: int = 0, num_frames: int = -1, **_: Any) -> tuple[Tensor, int]:
        path = Path(uri)
        whole = frame_offset == 0 and num_frames < 0
        asked.append(_Asked(path, frame_offset, None if whole else num_frames))
        try:
            rate = soundfile.info(path).samplerate  # classes compare it with what they expect
        except soundfile.LibsndfileError as error:
            raise Reject(f"{path.name!r}: {error.error_string}") from error
        return torch.zeros(1, 1), rate

    original = torchaudio.load
    torchaudio.load = load
    try:
        yield
    finally:
        torchaudio.load = original


def _read(asked: _Asked, root: Path, suffixes: frozenset[str]) -> bytes:
    if asked.frames is None:
        return read_file(asked.path, root, suffixes)
    # Of any format, since what is passed on is a WAV.
    content = read_file(asked.path, root, frozenset())
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as whole:
            whole.seek(min(asked.first, whole.frames))
            samples, rate = whole.read(asked.frames, dtype="float32"), whole.samplerate
    except soundfile.LibsndfileError as error:
        raise Reject(f"not a recording that libsndfile can read: {error.error_string}") from error
    cut = io.BytesIO()
    soundfile.write(cut, samples, rate, format="WAV", subtype="FLOAT")
    return cut.getvalue()
