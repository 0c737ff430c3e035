"""Recordings of single words, joined to strings of words: transcripts for data that came with classes."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, final

import numpy as np
import soundfile
from jaxtyping import Float32

from winnow.data.measures import recordings
from winnow.data.modality import Reject
from winnow.data.sources.records import Record, Source


class _Word(NamedTuple):
    """A word as it was spoken."""

    text: str
    sound: Float32[np.ndarray, " time"]


class _Deck:
    """Words in a random order, each once before any comes again."""

    def __init__(self, words: list[_Word], random: np.random.Generator) -> None:
        self._words, self._random = words, random
        self._order: list[int] = []

    @property
    def top(self) -> _Word:
        """The word that comes next."""
        if not self._order:
            self._order = self._random.permutation(len(self._words)).tolist()
        return self._words[self._order[-1]]

    def take(self) -> _Word:
        word = self.top
        self._order.pop()
        return word


@final
class Joined(Source):
    """Strings of words that one speaker spoke one by one, with silence around each; the target is the text.

    Speakers are the groups of the words' source, so a split of groups is one of speakers; splits of the
    words are kept. Each recording of a speaker is used once before any is used again. All words are held in
    memory. Words that cannot be used are rejects, beside the strings.

    Args:
        words: source of the single words: label, group and split are read.
        strings: how many, in proportion to the words of each speaker.
        length: the least and the most words of a string, all lengths alike.
        silence_seconds: the least and the most silence before each word and behind the last.
        max_seconds: a string ends before the word that would make it longer.
        sample_rate_hz: of the strings.
        texts: what a label is in a transcript, for labels that are not words: {"7": seven}.
        seed: of what is joined to what.

    Raises:
        ValueError: if a least is more than its most, or a string would hold no word.
    """

    def __init__(
        self,
        words: Source,
        strings: int,
        length: tuple[int, int],
        silence_seconds: tuple[float, float],
        max_seconds: float,
        sample_rate_hz: int,
        texts: dict[str, str] | None = None,
        seed: int = 0,
    ) -> None:
        if not 1 <= length[0] <= length[1]:
            raise ValueError(f"length must be from 1 word on, least before most, not {length}")
        if not 0 <= silence_seconds[0] <= silence_seconds[1]:
            raise ValueError(f"silence_seconds must be 0 at least, least before most, not {silence_seconds}")
        self.words, self.strings, self.length, self.texts = words, strings, length, texts or {}
        self.silence_seconds, self.max_seconds, self.seed = silence_seconds, max_seconds, seed
        self.sample_rate_hz = sample_rate_hz

    def records(self, raw: Path, suffixes: frozenset[str]) -> Iterator[Record]:
        speakers: dict[tuple[str, str], list[_Word]] = {}
        for record in self.words.records(raw, suffixes):
            try:
                word = self._word(record)
            except Reject as reject:
                yield record._replace(raw=None, reason=str(reject))
            else:
                speakers.setdefault((record.split or "", record.group or ""), []).append(word)
        number = sum(map(len, speakers.values()))
        for index, ((split, group), words) in enumerate(sorted(speakers.items())):
            random = np.random.default_rng([self.seed, index])
            deck = _Deck(words, random)
            for string in range(round(self.strings * len(words) / number)):
                text, sound = self._string(deck, random)
                source = "/".join(["joined", *filter(None, (split, group)), f"{string:05}.wav"])
                yield Record(source, sound, None, None, split or None, group or None, target=text)

    def _word(self, record: Record) -> _Word:
        """Read a word.

        Raises:
            Reject: if it cannot be read, says nobody knows what, or is longer than a string may be.
        """
        if record.raw is None:
            raise Reject(str(record.reason))
        if record.label is None:
            raise Reject("has no label: what is said in it is not known")
        samples, rate = recordings.read(record.raw)
        sound = recordings.resample(samples.mean(axis=1), rate, self.sample_rate_hz)
        seconds = len(sound) / self.sample_rate_hz + 2 * self.silence_seconds[1]
        if seconds > self.max_seconds:
            raise Reject(f"with silence {seconds:.2f} s, longer than max_seconds {self.max_seconds:g}")
        # An offset would click where silence begins.
        return _Word(self.texts.get(record.label, record.label), sound - sound.mean())

    def _string(self, deck: _Deck, random: np.random.Generator) -> tuple[str, bytes]:
        texts: list[str] = []
        parts, most = [self._silence(random)], int(self.max_seconds * self.sample_rate_hz)
        for _ in range(int(random.integers(self.length[0], self.length[1] + 1))):
            silence = self._silence(random)
            if texts and sum(map(len, parts)) + len(deck.top.sound) + len(silence) > most:
                break
            word = deck.take()
            texts.append(word.text)
            parts += [word.sound, silence]
        file = io.BytesIO()
        sound = np.concatenate(parts).clip(-1, 1)
        soundfile.write(file, sound, self.sample_rate_hz, format="WAV", subtype="PCM_16")
        return " ".join(texts), file.getvalue()

    def _silence(self, random: np.random.Generator) -> Float32[np.ndarray, " time"]:
        return np.zeros(int(random.uniform(*self.silence_seconds) * self.sample_rate_hz), np.float32)
