import unicodedata

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from winnow.data import text as text_module
from winnow.data.modality import Reject
from winnow.data.text import Text

TEXT = Text(length=12, vocabulary=64)


def ids(text: str, length: int = 12) -> list[int]:
    loaded = Text(length=length, vocabulary=1 << 20).load(text.encode())
    return loaded[loaded != 0].tolist()


def measures(text: str) -> dict[str, float]:
    return TEXT.decode(text.encode()).measures


@given(st.text(min_size=1))
def test_text_is_kept_in_nfc_and_not_repaired(text: str):
    try:
        raw = text.encode()
        payload = TEXT.decode(raw).payload
    except (Reject, UnicodeEncodeError):
        return
    assert payload.decode() == unicodedata.normalize("NFC", text.removeprefix("\ufeff"))
    x = TEXT.load(payload)
    assert x.shape == (12,) and x.dtype == torch.int64 and x.min() >= 0 and x.max() < 64
    assert np.linalg.norm(TEXT.descriptor(payload)) == pytest.approx(1)


def test_a_byte_order_mark_is_no_text():
    assert TEXT.decode(b"\xef\xbb\xbfhello").payload == b"hello"


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "empty"),
        (b" \n\t ", "empty"),
        ("\u200b\ufeff".encode(), "empty"),
        ("Käse".encode("latin-1"), "not UTF-8: byte 0xe4 at 1"),
        ("Käse".encode("utf-16"), "not UTF-8"),
        (b"a" * 1_000_001, "1,000,001 bytes"),
    ],
    ids=["nothing", "blank", "invisible", "latin-1", "utf-16", "book"],
)
def test_what_cannot_be_read_is_rejected_with_a_reason(raw: bytes, reason: str):
    with pytest.raises(Reject, match=reason):
        TEXT.decode(raw)


def test_long_words_are_cut_and_the_rest_is_no_word_of_its_own():
    assert len(ids("internationalisation")) == 4  # intern, ationa, lisati, on
    assert ids("unfold" + "ing")[0] == ids("unfold")[0]
    assert ids("unfolding")[1] != ids("ing")[0]


def test_case_and_composition_do_not_matter():
    assert ids("École") == ids("école")
    assert TEXT.decode("e\u0301".encode()).payload == TEXT.decode("é".encode()).payload


def test_words_numbers_and_marks_are_tokens():
    assert len(ids("It's 2024, fine_day.", length=20)) == 9
    assert measures("It's 2024, fine_day.")["tokens"] == 9


def test_what_is_too_long_is_not_read():
    words = " ".join("abcdefghijklmnopqrstuvwxyz")
    assert ids(words) == ids(words, length=26)[:12]


def test_padding_is_invalid_and_no_row_is_empty():
    tokens = TEXT.frontend(8)(torch.stack([TEXT.load(b"one two"), torch.zeros(12, dtype=int)]))
    assert tokens.valid.sum(dim=1).tolist() == [2, 1]
    assert not tokens.x[0, 2:].any()


def test_transform_leaves_out_a_tenth_and_keeps_the_order():
    text = Text(length=200, vocabulary=1 << 20)
    x = text.load(" ".join(f"w{i}" for i in range(60)).encode())
    full = x[x != 0].tolist()
    generator = torch.Generator().manual_seed(0)
    kept = []
    for _ in range(50):
        variant = text.transform(x, generator, 1.0)
        rest = variant[variant != 0].tolist()
        kept.append(len(rest) / len(full))
        left = iter(full)
        assert all(token in left for token in rest)
        assert not variant[len(rest) :].any()
    assert np.mean(kept) == pytest.approx(0.9, abs=0.02)


def identity(text: str) -> bytes:
    return TEXT.identity(TEXT.decode(text.encode()).payload)


def test_texts_are_identical_but_for_case_space_and_compatible_characters():
    assert identity("Straße  zum\nCafé ﬁn") == identity("STRASSE zum cafe\u0301 fin ")
    assert identity("one two") != identity("one, two") and len(identity("one")) == 16


def agreement(one: str, other: str) -> float:
    return float((TEXT.signature(one.encode()) == TEXT.signature(other.encode())).mean())


@given(
    st.text(alphabet="abcd ", min_size=1, max_size=300), st.text(alphabet="abcd ", min_size=1, max_size=300)
)
def test_signatures_share_what_texts_share(one: str, other: str):
    def pieces(text: str) -> set[str]:
        plain = " ".join(text.split())
        return {plain[i : i + 5] for i in range(max(1, len(plain) - 4))}

    both, either = pieces(one) & pieces(other), pieces(one) | pieces(other)
    # Five deviations of 64 draws.
    assert agreement(one, other) == pytest.approx(len(both) / len(either), abs=0.32)
    assert agreement(one, one.upper()) == 1


def test_a_changed_word_leaves_a_near_duplicate_and_another_text_does_not():
    news = (
        "Oil prices fell on Tuesday after the ministry said that stocks of crude had grown more than "
        "expected, while analysts warned that demand in the coming quarter may turn out to be weaker."
    )
    assert agreement(news, news.replace("Tuesday", "Monday")) >= TEXT.min_agreement
    assert agreement(news, news[: len(news) // 2] + "and nobody knows why or when that will end.") < 0.75
    assert TEXT.signature(b"a").shape == TEXT.signature(news.encode()).shape == (64,)


def test_a_signature_is_the_same_however_many_pieces_are_hashed_at_once(monkeypatch: pytest.MonkeyPatch):
    long = " ".join(f"word{i * i}" for i in range(500)).encode()
    whole = TEXT.signature(long)
    monkeypatch.setattr(text_module, "_SHINGLES", 7)
    assert (TEXT.signature(long) == whole).all()


def test_the_language_is_measured_where_languages_are_expected():
    english = Text(length=12, vocabulary=64, languages=["en"])
    foreign = b"Der Ausschuss trifft sich am Donnerstag wieder, um zu beraten."
    assert english.decode(foreign).measures["foreign"] > 0.9
    assert np.isnan(TEXT.decode(foreign).measures["foreign"])


def test_a_preview_is_escaped_and_short():
    shown = TEXT.preview(("<script>alert('&')</script>" + "x" * 5000).encode())
    assert "<script>" not in shown and "&lt;script&gt;" in shown
    assert len(shown) < 500 and "…" in shown


def test_a_preview_masks_personal_data_even_where_it_is_cut_off():
    for before in range(370, 405):
        shown = TEXT.preview(("x " * (before // 2) + "jane.doe@example.org +49 30 901820").encode())
        assert "jane" not in shown and "9018" not in shown
    assert "[email address]" in TEXT.preview(b"Ask jane.doe@example.org.")


def test_a_vocabulary_without_ids_is_refused():
    with pytest.raises(ValueError, match="vocabulary"):
        Text(length=4, vocabulary=1)
