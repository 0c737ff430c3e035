"""Hygiene of a text: what was done to it on its way, and what should not stand in it."""

import math
import re
import unicodedata
from functools import cache

import ftfy
from py3langid.langid import MODEL_FILE, LanguageIdentifier

from winnow.data.measures import personal
from winnow.data.stage import BadInput

_LOOKED_AT = 20_000  # characters in which garbling is looked for: ftfy is slow on long texts
_READ = 1_000  # characters that a language is told by
_LETTERS = 20  # that a language can be told by; of fewer letters any is as good
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f\ufffd\ufffe\uffff]")
# The two joiners belong into Persian, Hindi or an emoji; beside Latin letters they are left over.
_INVISIBLE = re.compile(
    r"[\u00ad\u180e\u200b\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff\U000e0000-\U000e007f]"
    r"|(?:(?<=[\x00-\u024f])|^)[\u200c\u200d]|[\u200c\u200d](?=[\x00-\u024f]|$)"
)
_MARKUP = re.compile(r"</?[a-z][a-z0-9]{0,9}(?:\s[^<>]{0,200})?/?>|&[a-z]{2,8};|&?#x?[0-9a-f]{2,6};", re.I)
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


def measures(text: str, languages: list[str] | None) -> dict[str, float]:
    """Measure a text that is not empty; NaN is what cannot be told of it.

    Args:
        text: in NFC.
        languages: ISO 639-1 codes of those that are expected; None tells no language.
    """
    words = text.lower().split()
    found = personal.count(text)
    return {
        "characters": float(len(text)),
        "words": float(len(words)),
        "letter_share": sum(map(str.isalpha, text)) / len(text),
        "control_characters": float(len(_CONTROL.findall(text))),
        "invisible_characters": 0.0 if text.isascii() else float(len(_INVISIBLE.findall(text))),
        "repeated_share": _repeated(words if len(words) > 2 else list(text)),
        "garbled": float(_garbled(text[:_LOOKED_AT])),
        "markup": float(len(_MARKUP.findall(text))),
        "foreign": math.nan if languages is None else foreign(text, frozenset(languages)),
        **{f"{kind.lower().split()[0]}_count": float(found[kind]) for kind in personal.KINDS},
    }


def foreign(text: str, languages: frozenset[str]) -> float:
    """Estimate the probability that a text is in none of the languages; NaN if it has few letters.

    Raises:
        BadInput: if there is no such language.
    """
    identifier = _identifier()
    if unknown := languages - set(identifier.labels):
        raise BadInput(
            f"params.yaml: text.modality.init_args.languages: {sorted(unknown)} are no languages that "
            f"can be told; there are {', '.join(sorted(identifier.labels))}"
        )
    read = text[:_READ]
    if sum(map(str.isalpha, read)) < _LETTERS:
        return math.nan
    return max(0.0, 1 - sum(share for name, share in identifier.rank(read) if name in languages))


@cache
def _identifier() -> LanguageIdentifier:
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def _repeated(parts: list[str]) -> float:
    """Give the share of triples that were there before; NaN where there are too few to repeat."""
    triples = list(zip(parts, parts[1:], parts[2:], strict=False))
    return 1 - len(set(triples)) / len(triples) if len(triples) > 2 else math.nan


def _garbled(text: str) -> bool:
    """Whether the text was once decoded with the wrong encoding ("mojibake")."""
    # What is all ASCII may have lost characters, but holds none that another encoding would read otherwise.
    if text.isascii():
        return False
    return unicodedata.normalize("NFC", ftfy.fix_text(text, config=_ENCODING_ONLY)) != text
