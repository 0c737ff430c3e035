"""Sentences of a small grammar, spoken by eSpeak NG: something to recognise on any machine."""

from collections.abc import Iterator
from pathlib import Path
from typing import final

import numpy as np

from winnow.data.sources.records import Record, Source
from winnow.data.sources.speaking import Utterance, spoken, spread, voice

# One word of each, in this order, as in the GRID corpus (Cooke et al. 2006), whose letters are things here.
GRAMMAR = (
    ("put", "lay", "set", "move", "bring"),
    ("red", "green", "blue", "white", "black", "yellow"),
    ("cup", "box", "key", "book", "shoe", "lamp", "chair", "stone"),
    ("by", "under", "over", "behind"),
    ("door", "table", "window", "garden"),
    ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    ("again", "now", "please", "soon"),
)


def sentence(number: int, words: int) -> Utterance:
    """Choose the sentence with a number, of the grammar's first so many words: voices change fastest."""
    random = np.random.default_rng(number)
    text = " ".join(str(random.choice(choices)) for choices in GRAMMAR[:words])
    rate, pitch = spread(number, 0.6180339887, 140, 100), spread(number, 0.7548776662, 30, 40)
    return Utterance(voice(number), text, rate, pitch)


@final
class Sentences(Source):
    """Sentences spoken by eSpeak NG; the group is the voice, the target the text; `raw` is not read.

    Args:
        sentences: how many.
        words: of each, from the grammar's first on; of seven there are 153,600 sentences.

    Raises:
        ValueError: if the grammar has no sentence of so many words.
    """

    def __init__(self, sentences: int, words: int) -> None:
        if not 1 <= words <= len(GRAMMAR):
            raise ValueError(f"words must be 1 to {len(GRAMMAR)}, not {words}")
        self.sentences, self.words = sentences, words

    def records(self, raw: Path, suffixes: frozenset[str]) -> Iterator[Record]:
        said = [sentence(number, self.words) for number in range(self.sentences)]
        for number, (one, sound) in enumerate(zip(said, spoken(said), strict=True)):
            source = f"sentences/{number:05}-{one.voice}.wav"
            yield Record(source, sound, None, None, None, one.voice, target=one.text)
