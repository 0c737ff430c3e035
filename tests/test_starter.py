import io
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image
from sklearn.datasets import load_digits

from winnow.data.sources.records import Record, Source
from winnow.data.sources.speaking import VARIANTS
from winnow.data.sources.starter import WORDS, Digits, Docstrings, SpokenDigits, utterance
from winnow.data.stage import BadInput


def read(source: Source) -> list[Record]:
    return list(source.records(Path("unread"), frozenset()))


def test_digits_are_scikit_learns_to_the_pixel():
    records, digits = read(Digits()), load_digits()
    assert [record.label for record in records] == [str(target) for target in digits.target]
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(record.raw))) for record in records])
    assert np.array_equal(np.round(pixels / 255 * 16), digits.images)


def test_speech_is_the_same_to_the_bit_from_run_to_run():
    count = len(WORDS) * len(VARIANTS)  # every voice, every word
    first, second = read(SpokenDigits(count)), read(SpokenDigits(count))
    assert first == second and len(first) == count
    assert len({record.raw for record in first}) == count
    assert Counter(record.label for record in first) == dict.fromkeys(WORDS, len(VARIANTS))
    assert len({record.group for record in first}) == len(VARIANTS) >= 20
    for record in first[::37]:
        samples, rate = soundfile.read(io.BytesIO(record.raw))
        assert 0.2 < len(samples) / rate < 1.5 and np.abs(samples).max() > 0.05


def test_fewer_utterances_are_the_first_of_more():
    assert read(SpokenDigits(15)) == read(SpokenDigits(30))[:15]


def test_a_voice_speaks_in_more_than_one_manner():
    again = len(WORDS) * len(VARIANTS)
    assert utterance(3).voice == utterance(3 + again).voice
    assert utterance(3).text == utterance(3 + again).text
    assert utterance(3) != utterance(3 + again)


def test_docstrings_are_the_same_capped_and_without_duplicates():
    source = Docstrings(["networkx", "sklearn"], limit_per_class=150)
    records = read(source)
    assert records == read(source)
    assert Counter(record.label for record in records) == {"networkx": 150, "sklearn": 150}
    assert len({record.raw for record in records}) == 300
    assert len({record.source for record in records}) == 300
    assert min(len(record.raw) for record in records) >= 60
    assert not any("/tests/" in record.source for record in records)
    assert all(record.group and record.source.startswith(record.group) for record in records)
    assert 2 < len({record.group for record in records}) < 150


def test_a_cap_takes_the_same_docstrings_out_of_all():
    few, all_ = (
        {record.source: record.raw for record in read(Docstrings(["networkx"], limit_per_class=n))}
        for n in (50, 100_000)
    )
    assert len(all_) > 1000 and few.items() <= all_.items()


def test_a_library_that_is_not_there_is_named():
    with pytest.raises(BadInput, match="'nonsuch'"):
        read(Docstrings(["nonsuch"], limit_per_class=1))
