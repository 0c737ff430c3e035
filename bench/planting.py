"""Faults as they get into data, one function for each: a healthy sample's bytes in, a broken one's out."""

import io
import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy.signal
import soundfile
from PIL import Image, ImageFilter

Random = np.random.Generator


class Fault(NamedTuple):
    """A way to break a sample.

    Attributes:
        name: of the fault.
        check: name of what should find it: of audit.checks, or "reject".
        plant: breaks a sample.
    """

    name: str
    check: str
    plant: Callable[[bytes, Random], bytes]


def pcm(samples: np.ndarray, rate: int = 8000, subtype: str = "PCM_16", format: str = "WAV") -> bytes:
    """Write a recording."""
    file = io.BytesIO()
    if subtype == "PCM_16":
        samples = np.round(samples * 32768).clip(-32768, 32767).astype(np.int16)
    soundfile.write(file, samples, rate, format=format, subtype=subtype)
    return file.getvalue()


def heard(raw: bytes) -> np.ndarray:
    """Read a recording."""
    return soundfile.read(io.BytesIO(raw))[0]


def picture(pixels: np.ndarray | Image.Image, format: str = "PNG", **options: int) -> bytes:
    """Write an image."""
    file = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(np.asarray(pixels, np.uint8))
    image.save(file, format, **options)
    return file.getvalue()


def seen(raw: bytes) -> np.ndarray:
    """Read an image."""
    return np.asarray(Image.open(io.BytesIO(raw)), np.float64)


def _halved(raw: bytes, random: Random) -> bytes:
    return raw[: len(raw) // 2]


def _empty(raw: bytes, random: Random) -> bytes:
    return b""


def _note(raw: bytes, random: Random) -> bytes:
    return f"this is note {random.integers(10**9)}, no such file\n".encode()


def _with_nan(raw: bytes, random: Random) -> bytes:
    samples = heard(raw).astype(np.float32)
    samples[random.integers(len(samples))] = np.nan
    return pcm(samples, subtype="FLOAT")


def _clipped(raw: bytes, random: Random) -> bytes:
    samples = heard(raw)
    return pcm(0.5 * np.clip(4 * samples / np.abs(samples).max(), -1, 1))


def _upsampled(raw: bytes, random: Random) -> bytes:
    return pcm(scipy.signal.resample_poly(heard(raw), 2, 1), 16000)


def _interpolated(raw: bytes, random: Random) -> bytes:
    samples = heard(raw)
    return pcm(np.interp(np.arange(2 * len(samples)) / 2, np.arange(len(samples)), samples), 16000)


def _dither(raw: bytes, random: Random) -> bytes:
    return pcm(random.normal(0, 1 / 32768, len(heard(raw))))


def _in_silence(raw: bytes, random: Random) -> bytes:
    samples = heard(raw)
    pause = random.normal(0, 1 / 32768, 12 * len(samples))
    return pcm(np.concatenate([pause, samples, pause]))


def _offset(raw: bytes, random: Random) -> bytes:
    samples = heard(raw)
    return pcm(samples + 0.3 * samples.std() * random.choice([-1, 1]))


def _noisy(raw: bytes, random: Random) -> bytes:
    samples = heard(raw)
    return pcm(0.5 * (samples + random.normal(0, samples.std(), len(samples))))


def _cut(raw: bytes, random: Random) -> bytes:
    return pcm(heard(raw)[: random.integers(400, 720)])


SPEECH = [
    Fault("truncated WAV", "reject", _halved),
    Fault("file of zero bytes", "reject", _empty),
    Fault("text named .wav", "reject", _note),
    Fault("NaN among the samples", "reject", _with_nan),
    Fault("clipped at 4×, then turned down", "clipped", _clipped),
    Fault("8 kHz resampled to 16 kHz", "narrow", _upsampled),
    Fault("8 kHz interpolated to 16 kHz in straight lines", "narrow", _interpolated),
    Fault("nothing but dither", "quiet", _dither),
    Fault("a word in 25 times as much silence", "silent", _in_silence),
    Fault("DC offset of 0.3 of the RMS", "offset", _offset),
    Fault("white noise as loud as the speech", "noisy", _noisy),
    Fault("shorter than 0.1 s", "short", _cut),
]


def _blurred(raw: bytes, random: Random) -> bytes:
    return picture(Image.open(io.BytesIO(raw)).filter(ImageFilter.GaussianBlur(2)))


def _levels(low: float, high: float) -> Callable[[bytes, Random], bytes]:
    return lambda raw, random: picture(low + (high - low) * seen(raw) / 255)


def _flat(raw: bytes, random: Random) -> bytes:
    return picture(np.full_like(seen(raw), random.integers(100, 200)))


def _strip(raw: bytes, random: Random) -> bytes:
    return picture(seen(raw)[:, 10:18])


VISION = [
    Fault("truncated PNG", "reject", _halved),
    Fault("file of zero bytes", "reject", _empty),
    Fault("text named .png", "reject", _note),
    Fault("blur of 2 of 28 pixels", "blurred", _blurred),
    Fault("dark", "dark", _levels(0, 60)),
    Fault("light", "light", _levels(248, 255)),
    Fault("hardly any contrast", "pale", _levels(125, 133)),
    Fault("one grey all over", "low_information", _flat),
    Fault("a strip of 8×28 pixels", "odd_aspect_ratio", _strip),
]

_FOREIGN = (
    "Der Bundestag hat am Donnerstag nach langer Debatte ein neues Gesetz zur Energieversorgung beschlossen.",
    "Die Aktien der Fluggesellschaft fielen am Montag, nachdem der Vorstand seine Prognose gesenkt hatte.",
    "Le gouvernement a annoncé mardi une série de mesures pour soutenir les petites entreprises du pays.",
    "L'équipe nationale a remporté la finale hier soir devant quarante mille spectateurs enthousiastes.",
    "El presidente viajará la próxima semana a la capital vecina para firmar un acuerdo comercial histórico.",
    "Los científicos descubrieron una nueva especie de orquídea en las montañas del norte del país.",
    "Il ministro ha dichiarato che la riforma delle pensioni sarà discussa in parlamento entro fine mese.",
    "De regering heeft gisteren besloten om de bouw van nieuwe woningen langs de kust te versnellen.",
    "O banco central manteve a taxa de juros inalterada depois de uma reunião que durou dois dias inteiros.",
    "Regeringen föreslår att skatten på el sänks för hushåll i de norra delarna av landet under vintern.",
    "Rząd ogłosił w środę nowy program wsparcia dla młodych rodzin, które chcą kupić pierwsze mieszkanie.",
    "Правительство объявило о новых мерах поддержки малого бизнеса после заседания в понедельник вечером.",
)


def _foreign(raw: bytes, random: Random) -> bytes:
    return f"{random.choice(_FOREIGN)} ({random.integers(10**6)})".encode()


def _garbled(raw: bytes, random: Random) -> bytes:
    text = re.sub("e", "é", raw.decode(), count=3).replace("'", "’") + " – “so”"
    return text.encode().decode("cp1252", errors="replace").replace("\ufffd", "").encode()


def _sprinkled(*characters: str) -> Callable[[bytes, Random], bytes]:
    def plant(raw: bytes, random: Random) -> bytes:
        text = list(raw.decode())
        for _ in range(3):
            text.insert(int(random.integers(1, len(text))), str(random.choice(characters)))
        return "".join(text).encode()

    return plant


def _repeated(raw: bytes, random: Random) -> bytes:
    return b" ".join([raw[:60]] * 5)


def _latin(raw: bytes, random: Random) -> bytes:
    return ("Größe: " + raw.decode()).encode("latin-1", errors="replace")


def _digits(raw: bytes, random: Random) -> bytes:
    return " ".join(str(n) for n in random.integers(0, 99999, 30)).encode() + b" eggs"


def _and(written: str) -> Callable[[bytes, Random], bytes]:
    """Add personal data that nobody has: each # is a digit."""
    return lambda raw, random: (
        raw + b" " + re.sub("#", lambda _: str(random.integers(10)), written).encode() + b" for more."
    )


def _with_card(raw: bytes, random: Random) -> bytes:
    digits = [4, *random.integers(0, 10, 14).tolist()]
    total = sum(d if i % 2 else 2 * d - 9 * (d > 4) for i, d in enumerate(digits))
    number = "".join(map(str, [*digits, -total % 10]))
    return raw + f" Card {number[:4]} {number[4:8]} {number[8:12]} {number[12:]}.".encode()


TEXT = [
    Fault("file of zero bytes", "reject", _empty),
    Fault("blanks only", "reject", lambda raw, random: b" \n\t" * 5),
    Fault("Latin-1 instead of UTF-8", "reject", _latin),
    Fault("UTF-8 read as Windows-1252 (mojibake)", "garbled", _garbled),
    Fault("zero-width characters", "invisible_characters", _sprinkled("\u200b", "\ufeff", "\u00ad")),
    Fault("control characters", "control_characters", _sprinkled("\x00", "\x07", "\x1b")),
    Fault("one phrase five times", "repetitive", _repeated),
    Fault("hardly a letter", "few_letters", _digits),
    Fault("two words", "short", lambda raw, random: b" ".join(raw.split()[:2])),
    Fault("tags of HTML", "markup", lambda raw, random: b"<p>" + raw + b"</p>"),
    Fault("another language", "foreign", _foreign),
    Fault("an email address", "email", _and("Write to j.d##@example#.org")),
    Fault("a phone number", "phone", _and("Call +49 30 ######")),
    Fault("an IP address", "ip_address", _and("Ask 81.2.6#.1##")),
    Fault("a card number", "card", _with_card),
]


class Copy(NamedTuple):
    """A way to copy a sample.

    Attributes:
        name: of the way.
        exact: whether the copy is equal beyond its encoding.
        suffix: ending of the copy's file.
        make: copies a sample.
    """

    name: str
    exact: bool
    suffix: str
    make: Callable[[bytes, Random], bytes]


def _swapped(raw: bytes, random: Random) -> bytes:
    words = raw.split()
    words[int(random.integers(len(words)))] = b"meanwhile"
    return b" ".join(words)


COPIES = {
    "speech": [
        Copy("WAV as FLAC", True, ".flac", lambda raw, random: pcm(heard(raw), format="FLAC")),
        Copy("OGG, turned down", False, ".ogg",
             lambda raw, random: pcm(0.7 * heard(raw), subtype="VORBIS", format="OGG")),
        Copy("turned down, noise 40 dB below", False, ".wav", lambda raw, random: pcm(
            0.8 * heard(raw) + random.normal(0, 0.008 * heard(raw).std(), len(heard(raw))))),
    ],
    "vision": [
        Copy("PNG as BMP", True, ".bmp", lambda raw, random: picture(seen(raw), "BMP")),
        Copy("JPEG of quality 85", False, ".jpg", lambda raw, random: picture(seen(raw), "JPEG", quality=85)),
        Copy("a tenth brighter", False, ".png",
             lambda raw, random: picture(np.minimum(255, 1.1 * seen(raw)))),
    ],
    "text": [
        Copy("other case and spaces", True, ".txt",
             lambda raw, random: b"  ".join(raw.decode().upper().encode().split())),
        Copy("one word exchanged", False, ".txt", _swapped),
    ],
}  # fmt: skip
