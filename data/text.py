"""Text: a document is a row of subwords, hashed or of a fitted vocabulary."""

import hashlib
import html
import re
import unicodedata
import zlib
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import ClassVar, final

import numpy as np
import torch
from datasketch import MinHash
from jaxtyping import Bool, Float32, Int64, UInt16
from torch import Generator, Tensor, nn

from winnow.data.measures import hygiene, personal
from winnow.data.modality import Decoded, Modality, Reject, Tokens

MAX_BYTES = 1_000_000  # a longer text is a book or a dump, to be cut up before it comes here
_PIECE = 6  # characters
_FEATURES = 16384  # of a descriptor
_EXCERPT = 400  # characters
_SHINGLE = 5  # bytes
_SHINGLES = 16384  # that are hashed at once: 64 values each
_HASHES = 64  # of a signature
_PERMUTED = MinHash(_HASHES, seed=1, scheme="affine32")  # a dataset is compared with later versions of it
_WORD = re.compile(r"[^\W\d_]+|\d+|[^\w\s]|_")


class _Document(Modality):
    """What documents have in common, however they are cut to tokens.

    Attributes:
        padding: id of what is no token.
    """

    suffixes: ClassVar[frozenset[str]] = frozenset({".txt", ".md"})
    media_type: ClassVar[str] = "text/plain"
    min_agreement: ClassVar[float] = 0.75

    languages: list[str] | None
    length: int
    vocabulary: int
    padding: int

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
        measures = hygiene.measures(text, self.languages)
        return Decoded(text.encode(), {**measures, "tokens": float(len(pieces))})

    def cuts(self, measures: Mapping[str, float]) -> bool:
        return measures["tokens"] > self.length

    def transform(self, x: Tensor, generator: Generator, strength: float) -> Tensor:
        """Leave out a tenth of the tokens, times the strength, but not the first, and close the gaps."""
        return self._thinned(x, torch.rand(x.shape, generator=generator) >= 0.1 * strength)

    def _thinned(self, x: Tensor, kept: Bool[Tensor, " token"]) -> Tensor:
        kept[0] = True  # of a text of one token, that one stays
        tokens = x[kept & (x != self.padding)]
        shorter = torch.full_like(x, self.padding)
        shorter[: len(tokens)] = tokens
        return shorter

    def descriptor(self, payload: bytes) -> Float32[np.ndarray, " feature"]:
        """Describe a text by its words, cut to stems of six letters and hashed: log counts, of length 1."""
        found = _WORD.findall(payload.decode().lower())
        words = [word for word in found if word[0].isalnum()] or found
        counts = np.zeros(_FEATURES, dtype=np.float32)
        for word in words:
            counts[zlib.crc32(word[:_PIECE].encode()) % _FEATURES] += 1
        vector = np.log1p(counts)
        return vector / np.linalg.norm(vector)

    def identity(self, payload: bytes) -> bytes:
        """Tell texts apart that differ in more than case, white space and compatible characters."""
        return hashlib.blake2b(_plain(payload).encode(), digest_size=16).digest()

    def signature(self, payload: bytes) -> UInt16[np.ndarray, " entry"]:
        """Hash the overlapping pieces of five bytes to 64 minima.

        The share of minima that two texts have in common estimates the share of pieces that they have in
        common, of all that either has.

        Paper: On the Resemblance and Containment of Documents (Broder 1997), section 3; of each minimum
        16 bits are kept: b-Bit Minwise Hashing (Li, König 2010).
        """
        text = _plain(payload).encode()
        pieces = list({text[i : i + _SHINGLE] for i in range(max(1, len(text) - _SHINGLE + 1))})
        minima = MinHash(
            _HASHES, hashfunc=zlib.crc32, permutations=_PERMUTED.permutations, scheme=_PERMUTED.scheme
        )
        for start in range(0, len(pieces), _SHINGLES):
            minima.update_batch(pieces[start : start + _SHINGLES])
        return minima.hashvalues.astype(np.uint16)

    def draw(self, generator: Generator) -> Int64[Tensor, " token"]:
        ids = torch.randint(self.vocabulary - 1, (self.length,), generator=generator)
        return ids + (ids >= self.padding)  # any but the padding

    def frontend(self, dim: int) -> nn.Module:
        return _Subwords(self.vocabulary, self.padding, dim)

    def preview(self, payload: bytes) -> str:
        # What is cut off may be the rest of an address, so more is masked than shown.
        text = personal.mask(payload.decode()[: 4 * _EXCERPT])
        excerpt = text if len(text) <= _EXCERPT else text[: _EXCERPT - 1] + "…"
        return f'<q class="excerpt">{html.escape(excerpt)}</q>'


@final
class Text(_Document):
    """Plain text as a row of subwords, hashed to ids.

    Words, numbers and marks are cut into pieces of six characters and hashed: no vocabulary is
    fitted, shipped, or leaks between splits, and no text is out of it. That pieces can collide and
    ids cannot be turned back into text does no harm, as data2vec predicts latents, not words.

    Args:
        length: tokens of a sample; what comes after them is not read.
        vocabulary: number of ids; 0 is padding.
        languages: ISO 639-1 codes of the expected languages; None: languages are not told apart.

    Raises:
        ValueError: if there is no room for a token or for an id.
    """

    padding = 0

    def __init__(self, length: int, vocabulary: int, languages: list[str] | None = None) -> None:
        if length < 1 or vocabulary < 2:
            raise ValueError(f"length must be at least 1 and vocabulary 2, not {length} and {vocabulary}")
        self.length, self.vocabulary, self.languages = length, vocabulary, languages
        self.grid = (length,)

    def load(self, payload: bytes) -> Int64[Tensor, " token"]:
        ids = [self._id(piece) for piece in islice(_pieces(payload.decode()), self.length)]
        return torch.tensor(ids + [0] * (self.length - len(ids)))

    def _id(self, piece: str) -> int:
        return 1 + zlib.crc32(piece.encode()) % (self.vocabulary - 1)


@final
class Subwords(_Document):
    """Plain text as a row of subwords of a fitted vocabulary, as published encoders read it.

    Args:
        tokenizer: file that Hugging Face's tokenizers reads, `tokenizer.json`.
        length: tokens of a sample with those that stand around it; what comes after them is not read.
        languages: ISO 639-1 codes of the expected languages; None: languages are not told apart.

    Raises:
        ValueError: if there is no room for a token, or the vocabulary has no `<pad>` or `[PAD]`.
        FileNotFoundError: if there is no such file.
    """

    files: ClassVar[tuple[str, ...]] = ("tokenizer",)

    def __init__(self, tokenizer: str, length: int, languages: list[str] | None = None) -> None:
        from tokenizers import Tokenizer  # an extra, which hashed subwords do without

        if not Path(tokenizer).is_file():
            raise FileNotFoundError(f"modality.tokenizer: {tokenizer} is no file")
        self._tokenizer = Tokenizer.from_file(tokenizer)
        found = [self._tokenizer.token_to_id(word) for word in ("<pad>", "[PAD]")]
        known = [number for number in found if number is not None]
        if length < 1 or not known:
            raise ValueError(f"{tokenizer}: length {length} must be 1 at least, the vocabulary have <pad>")
        self._tokenizer.enable_truncation(length)
        self._tokenizer.no_padding()
        self.tokenizer, self.length, self.languages = tokenizer, length, languages
        self.vocabulary, self.padding = self._tokenizer.get_vocab_size(), known[0]
        self.grid = (length,)

    def load(self, payload: bytes) -> Int64[Tensor, " token"]:
        ids = self._tokenizer.encode(payload.decode()).ids
        return torch.tensor(ids + [self.padding] * (self.length - len(ids)))

    def transform(self, x: Tensor, generator: Generator, strength: float) -> Tensor:
        """Leave out about a tenth of the tokens, times the strength, but not the first and the last."""
        kept = torch.rand(x.shape, generator=generator) >= 0.1 * strength
        kept[int((x != self.padding).sum()) - 1] = True
        return self._thinned(x, kept)


class _Subwords(nn.Module):
    """Looks each id up; padding is invalid."""

    def __init__(self, vocabulary: int, padding: int, dim: int) -> None:
        super().__init__()
        self.padding = padding
        self.embedding = nn.Embedding(vocabulary, dim, padding_idx=padding)
        with torch.no_grad():
            # As in published encoders: from rows of variance 1, a short training would hardly get away.
            self.embedding.weight.mul_(0.02)

    def forward(self, x: Int64[Tensor, "batch token"]) -> Tokens:
        # The first token counts even if it is padding: attention over nothing is not a number.
        first = torch.arange(x.shape[1], device=x.device) == 0
        return Tokens(self.embedding(x), (x != self.padding) | first)


def _plain(payload: bytes) -> str:
    return " ".join(unicodedata.normalize("NFKC", payload.decode()).casefold().split())


def _pieces(text: str) -> Iterator[str]:
    """Cut a text into words, numbers and marks, and those into pieces of at most six characters."""
    for match in _WORD.finditer(text.lower()):
        word = match.group()
        yield word[:_PIECE]
        for start in range(_PIECE, len(word), _PIECE):
            # The mark tells "ing" at the end of a word from the word "ing".
            yield f"#{word[start : start + _PIECE]}"
