import io

import pytest
import soundfile

from winnow.data.sources.speaking import ACCENTS, VARIANTS, Utterance, spoken, spread, voice
from winnow.data.stage import BadInput


def test_utterances_are_spoken_in_their_order_as_fast_as_asked() -> None:
    said = [Utterance("en+m1", "one two three four", rate, 50) for rate in (110, 220)]
    slow, fast = (soundfile.info(io.BytesIO(sound)).duration for sound in spoken(said))
    assert 1.4 * fast < slow < 3 * fast


def test_a_voice_that_is_not_there_stops_the_speaker(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BadInput, match="eSpeak NG stopped with exit status 1"):
        list(spoken([Utterance("nonsuch", "one", 150, 50)]))
    assert "nonsuch" in capfd.readouterr().err


def test_every_variant_has_one_voice_and_every_accent_some() -> None:
    voices = {voice(number) for number in range(1000)}
    assert len(voices) == len(VARIANTS)
    assert {name.split("+")[0] for name in voices} == set(ACCENTS)


def test_numbers_spread_over_the_whole_range() -> None:
    seen = {spread(number, 0.6180339887, 30, 40) for number in range(200)}
    assert seen == set(range(30, 70))
