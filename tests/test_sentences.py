import io
from pathlib import Path

import pytest
import soundfile

from winnow.data.sources.records import Record
from winnow.data.sources.sentences import GRAMMAR, Sentences
from winnow.data.sources.speaking import VARIANTS


def read(sentences: int, words: int = 7) -> list[Record]:
    return list(Sentences(sentences, words).records(Path("unread"), frozenset()))


def test_sentences_are_the_same_to_the_bit_from_run_to_run_in_every_voice() -> None:
    first = read(2 * len(VARIANTS))
    assert first == read(2 * len(VARIANTS))
    assert len({record.group for record in first}) == len(VARIANTS)
    assert len({record.target for record in first}) > 0.95 * len(first)
    for record in first[::11]:
        samples, rate = soundfile.read(io.BytesIO(record.raw))
        assert 1.0 < len(samples) / rate < 4.5 and abs(samples).max() > 0.05


def test_the_target_is_a_sentence_of_the_grammar() -> None:
    for record in read(20, words=5):
        words = record.target.split()
        assert len(words) == 5
        assert all(word in choices for word, choices in zip(words, GRAMMAR, strict=False))
        assert record.label is None


def test_longer_sentences_take_longer() -> None:
    short, long = (sum(len(record.raw) for record in read(10, words)) for words in (2, 7))
    assert long > 2 * short


def test_a_sentence_has_no_more_words_than_the_grammar() -> None:
    with pytest.raises(ValueError, match="words must be 1 to 7, not 8"):
        Sentences(1, 8)
