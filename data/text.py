"""Text: a document is a row of hashed subwords."""

import html
import re
import unicodedata
import zlib
from collections.abc import Iterator
from itertools import islice
from typing import ClassVar, final

import ftfy
import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Generator, Tensor, nn

from winnow.data.modality import Decoded, Modality, Reject, Tokens

MAX_BYTES = 1_000_000  # a longer text is a book or a dump, to be cut up before it comes here
_PIECE = 6  # characters
_FEATURES = 16384  # of a descriptor
_EXCERPT = 400  # characters
_LOOKED_AT = 20_000  # characters in which garbling is looked for: ftfy is slow on long texts
_WORD = re.compile(r"[^\W\d_]+|\d+|[^\w\s]|_")
_INVISIBLE = frozenset("\u200b\u200c\u200d\u2060\ufeff\u00ad\ufffd")
# What ftfy may do to healthy text (quotes, ligatures, line breaks, …) is no sign of garbling.
_ENCODING_ONLY = ftfy.TextFixerConfig(
    unescape_html=False,
    remove_terminal_escapes=False,
    restore_byte_a0=True,
    replace_lossy_sequences=True,
    decode_inconsistent_utf8=True,
    fix_c1_controls=True,
    fix_latin_ligatures=False,
    fix_character_width=False,
    uncurl_quotes=False,
    fix_line_breaks=False,
    fix_surrogates=False,
    remove_control_chars=False,
    normalization=None,
    explain=False,
)


@final
class Text(Modality):
    """Plain text as a row of subwords, hashed to ids.

    Words, numbers and marks are cut into pieces of six characters and hashed: no vocabulary is
    fitted, shipped, or leaks between splits, and no text is out of it. That pieces can collide and
    ids cannot be turned back into text does no harm, as data2vec predicts latents, not words.

    Args:
        length: tokens of a sample; what comes after them is not read.
        vocabulary: number of ids; 0 is padding.

    Raises:
        ValueError: if there is no room for a token or for an id.
    """

    suffixes: ClassVar[frozenset[str]] = frozenset({".txt", ".md"})

    def __init__(self, length: int, vocabulary: int) -> None:
        if length < 1 or vocabulary < 2:
            raise ValueError(f"length must be at least 1 and vocabulary 2, not {length} and {vocabulary}")
        self.length, self.vocabulary = length, vocabulary
        self.grid = (length,)

    def decode(self, raw: bytes) -> Decoded:
        """Read UTF-8, with or without a byte-order mark; the text is kept as it is, in NFC."""
        if len(raw) > MAX_BYTES:
            raise Reject(f"{len(raw):,} bytes are more than {MAX_BYTES:,}: cut it up")
        try:
            text = unicodedata.normalize("NFC", raw.decode("utf-8-sig"))
        except UnicodeDecodeError as error:
            raise Reject(f"not UTF-8: byte {raw[error.start]:#04x} at {error.start}") from error
        pieces = list(_pieces(text))
        if not any(map(str.isprintable, pieces)):
            raise Reject("the text is empty")
        return Decoded(text.encode(), {**_measures(text), "tokens": float(len(pieces))})

    def load(self, payload: bytes) -> Int64[Tensor, " token"]:
        ids = [self._id(piece) for piece in islice(_pieces(payload.decode()), self.length)]
        return torch.tensor(ids + [0] * (self.length - len(ids)))

    def _id(self, piece: str) -> int:
        return 1 + zlib.crc32(piece.encode()) % (self.vocabulary - 1)

    def transform(self, x: Tensor, generator: Generator) -> Tensor:
        """Leave out about a tenth of the tokens and close the gaps."""
        kept = torch.rand(x.shape, generator=generator) >= 0.1
        kept[0] = True  # of a text of one token, that one stays
        tokens = x[kept & (x != 0)]
        shorter = torch.zeros_like(x)
        shorter[: len(tokens)] = tokens
        return shorter

    def descriptor(self, payload: bytes) -> Float32[np.ndarray, " feature"]:
        """Describe a text by its hashed words: log counts, of length 1."""
        found = _WORD.findall(payload.decode().lower())
        words = [word for word in found if word[0].isalnum()] or found
        counts = np.zeros(_FEATURES, dtype=np.float32)
        for word in words:
            counts[zlib.crc32(word.encode()) % _FEATURES] += 1
        vector = np.log1p(counts)
        return vector / np.linalg.norm(vector)

    def frontend(self, dim: int) -> nn.Module:
        return _Subwords(self.vocabulary, dim)

    def preview(self, payload: bytes) -> str:
        text = payload.decode()
        excerpt = text if len(text) <= _EXCERPT else text[: _EXCERPT - 1] + "…"
        return f'<q class="excerpt">{html.escape(excerpt)}</q>'


class _Subwords(nn.Module):
    """Looks each id up; padding is invalid."""

    def __init__(self, vocabulary: int, dim: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, dim, padding_idx=0)

    def forward(self, x: Int64[Tensor, "batch token"]) -> Tokens:
        # The first token counts even if it is padding: attention over nothing is not a number.
        first = torch.arange(x.shape[1], device=x.device) == 0
        return Tokens(self.embedding(x), (x != 0) | first)


def _pieces(text: str) -> Iterator[str]:
    """Cut a text into words, numbers and marks, and those into pieces of at most six characters."""
    for match in _WORD.finditer(text.lower()):
        word = match.group()
        yield word[:_PIECE]
        for start in range(_PIECE, len(word), _PIECE):
            # The mark tells "ing" at the end of a word from the word "ing".
            yield f"#{word[start : start + _PIECE]}"


def _measures(text: str) -> dict[str, float]:
    words = text.lower().split()
    triples = list(zip(words, words[1:], words[2:], strict=False))
    odd = sum(
        char in _INVISIBLE or (unicodedata.category(char) == "Cc" and char not in "\t\n\r\f") for char in text
    )
    return {
        "characters": float(len(text)),
        "words": float(len(words)),
        "letter_share": sum(map(str.isalpha, text)) / len(text),
        "control_share": odd / len(text),
        "repeated_share": 1 - len(set(triples)) / len(triples) if triples else 0.0,
        "garbled": float(_garbled(text[:_LOOKED_AT])),
    }


def _garbled(text: str) -> bool:
    """Whether the text was once decoded with the wrong encoding ("mojibake")."""
    return unicodedata.normalize("NFC", ftfy.fix_text(text, config=_ENCODING_ONLY)) != text
