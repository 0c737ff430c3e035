"""Personal data in a text: found to be counted, and masked before anyone is shown it."""

import ipaddress
import re
from collections.abc import Iterator
from typing import NamedTuple

KINDS = ("email address", "phone number", "IP address", "card number")

_EMAIL = re.compile(r"[\w.%+-]{1,64}@(?:[a-z0-9-]{1,63}\.)+[a-z]{2,24}\b", re.IGNORECASE)
# Groups of digits as cards, phones and addresses have them; what each run is, its digits decide.
_NUMBER = re.compile(
    r"(?<![\w.:])(?:"
    r"(?P<card>\d(?:[ -]?\d){12,18})"
    r"|(?P<ip>\d{1,3}(?:\.\d{1,3}){3})"
    r"|(?P<phone>\+[1-9]\d{0,2}(?:[ .-]?(?:\(\d{1,5}\)|\d{1,5})){2,6}"  # with the country's code
    r"|\(\d{3}\) ?\d{3}[ .-]\d{4}|\d{3}([.-])\d{3}\4\d{4})"  # North American
    r")(?!\w|[.:]\d)"
)
_IPV6 = re.compile(r"(?<![\w:.])(?:[0-9a-f]{0,4}:){3,7}[0-9a-f]{1,4}(?![\w:])", re.IGNORECASE)


class Span(NamedTuple):
    """A place of a text that holds personal data.

    Attributes:
        start: its first character.
        end: the character behind it.
        kind: one of `KINDS`.
    """

    start: int
    end: int
    kind: str


def find(text: str) -> list[Span]:
    """Find what identifies somebody: email addresses, phone, card and global IP numbers.

    Names and postal addresses are not found: that takes a model, and a human who checks it.
    """
    spans = [*_emails(text), *_numbers(text), *_ipv6(text)]
    return sorted(spans)


def count(text: str) -> dict[str, int]:
    """Count the personal data of each kind."""
    found = [span.kind for span in find(text)]
    return {kind: found.count(kind) for kind in KINDS}


def mask(text: str) -> str:
    """Put the name of its kind in the place of personal data: `[email address]`."""
    parts, at = [], 0
    for span in find(text):
        if span.start >= at:
            parts += [text[at : span.start], f"[{span.kind}]"]
        at = max(at, span.end)
    return "".join([*parts, text[at:]])


def _emails(text: str) -> Iterator[Span]:
    if "@" in text:
        for match in _EMAIL.finditer(text):
            yield Span(match.start(), match.end(), "email address")


def _numbers(text: str) -> Iterator[Span]:
    for match in _NUMBER.finditer(text):
        written = match.group()
        digits = re.sub(r"\D", "", written)
        if match["card"] and _is_card(digits):
            yield Span(match.start(), match.end(), "card number")
        elif match["ip"] and _is_global(written):
            yield Span(match.start(), match.end(), "IP address")
        elif match["phone"] and 8 <= len(digits) <= 15:
            yield Span(match.start(), match.end(), "phone number")


def _ipv6(text: str) -> Iterator[Span]:
    if ":" in text:
        for match in _IPV6.finditer(text):
            if _is_global(match.group()):
                yield Span(match.start(), match.end(), "IP address")


def _is_card(digits: str) -> bool:
    """Check the sum of a card number, and that it starts and varies like one.

    Paper: ISO/IEC 7812-1, annex B (Luhn).
    """
    doubled = [int(d) * (1 + i % 2) for i, d in enumerate(reversed(digits))]
    return digits[0] in "3456" and len(set(digits)) > 1 and not sum(d - 9 * (d > 9) for d in doubled) % 10


def _is_global(written: str) -> bool:
    """Whether an address is one of the internet's; those of private networks lead to nobody."""
    try:
        return ipaddress.ip_address(written).is_global
    except ValueError:
        return False
