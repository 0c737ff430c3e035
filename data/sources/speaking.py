"""eSpeak NG, out of its wheel: a list of utterances → recordings, the same on every run.

The speaker is a process of its own: eSpeak's noise goes on from one utterance to the next, so the same sounds
come only from a fresh start and the same list.
"""

import ctypes
import io
import json
import struct
import subprocess
import sys
import wave
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import espeakng_loader

from winnow.data.stage import BadInput

# A voice is a variant of its own, so that no two voices share a timbre, with one of the accents.
# Left out are variants that whisper or play a robot, and those with breath (f2, f3, f5, Alicia, …):
# their noise is another one in every process.
VARIANTS = (
    *("m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "f1", "f4", "grandma", "paul"),
    *("Alex", "quincy", "Andrea", "Andy", "Annie", "Denis", "Diogo", "Gene", "Henrique", "Hugo"),
    *("Jacky", "Lee", "Marco", "Mario", "Michael", "Mike", "Nguyen", "adam", "anika", "belinda"),
    *("aunty", "boris", "david", "ed", "edward", "linda", "steph"),
)
ACCENTS = ("en-us", "en", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbcwmd")


class Utterance(NamedTuple):
    """What eSpeak NG is asked to say.

    Attributes:
        voice: accent and variant, as `en-us+f3`.
        text: the words.
        rate: speed [words per minute].
        pitch: 0 to 100.
    """

    voice: str
    text: str
    rate: int
    pitch: int


def voice(number: int) -> str:
    """Name one of the voices; numbers go round."""
    variant = number % len(VARIANTS)
    return f"{ACCENTS[variant % len(ACCENTS)]}+{VARIANTS[variant]}"


def spread(number: int, step: float, low: int, width: int) -> int:
    """Give a whole number from `low` up to less than `low + width`, another one for each `number`.

    Args:
        number: of what it is for.
        step: irrational: its multiples, modulo 1, spread evenly and never repeat.
        low: the least.
        width: of the range.
    """
    return low + int(width * (number * step % 1))


def spoken(utterances: Sequence[Utterance]) -> Iterator[bytes]:
    """Say utterances one after the other; each is a WAV.

    Raises:
        BadInput: if the speaker breaks off.
    """
    command = [sys.executable, "-m", "winnow.data.sources.speaking"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as speaker:
        assert speaker.stdin is not None and speaker.stdout is not None
        # It reads all before it says anything, so neither waits for the other.
        speaker.stdin.write(json.dumps(utterances).encode())
        speaker.stdin.close()
        for _ in utterances:
            header = speaker.stdout.read(8)
            if len(header) < 8:
                break
            rate, size = struct.unpack("<II", header)
            yield _wav(speaker.stdout.read(size), rate)
    if speaker.returncode:
        raise BadInput(f"eSpeak NG stopped with exit status {speaker.returncode}, see above")


def _wav(pcm: bytes, rate: int) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(rate)
        writer.writeframes(pcm)
    return file.getvalue()


def _speak(utterances: Sequence[Utterance]) -> None:
    """Say utterances; write each to standard output as rate, size and 16-bit samples."""
    synchronous, rate_parameter, pitch_parameter, utf8 = 2, 1, 3, 1  # of espeak-ng/speak_lib.h
    espeak = ctypes.CDLL(espeakng_loader.get_library_path())
    data = espeakng_loader.get_data_path().encode()
    rate_hz = espeak.espeak_Initialize(synchronous, 0, data, 0)
    if rate_hz <= 0:
        raise RuntimeError(f"eSpeak NG does not start with the data in {data!r}")
    heard = bytearray()

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
    def hear(samples: "ctypes._Pointer[ctypes.c_short]", count: int, _: int) -> int:
        if count:
            heard.extend(ctypes.string_at(samples, 2 * count))
        return 0

    espeak.espeak_SetSynthCallback(hear)
    for said in utterances:
        heard.clear()
        text = said.text.encode()
        for status in (
            espeak.espeak_SetVoiceByName(said.voice.encode()),
            espeak.espeak_SetParameter(rate_parameter, said.rate, 0),
            espeak.espeak_SetParameter(pitch_parameter, said.pitch, 0),
            espeak.espeak_Synth(text, ctypes.c_size_t(len(text) + 1), 0, 0, 0, utf8, None, None),
            espeak.espeak_Synchronize(),
        ):
            if status:
                raise RuntimeError(f"eSpeak NG cannot say {said}: error {status}")
        sys.stdout.buffer.write(struct.pack("<II", rate_hz, len(heard)) + heard)


if __name__ == "__main__":
    _speak([Utterance(*said) for said in json.load(sys.stdin)])
