import math

import pytest

from winnow.data.measures import hygiene
from winnow.data.stage import BadInput


def measured(text: str, languages: list[str] | None = None) -> dict[str, float]:
    return hygiene.measures(text, languages)


@pytest.mark.parametrize(
    ("text", "garbled"),
    [
        ("The cafÃ© is â€œopenâ€\x9d today", True),
        ("voilÃ  le garÃ§on", True),
        ("The café is “open” today… fi ﬁ", False),
        ("lines\r\nof &amp; text\u2028and more", False),
        ("Ärger über Öl", False),
        ("日本語のテキスト", False),
    ],
)
def test_only_a_wrong_encoding_is_garbled(text: str, garbled: bool) -> None:
    assert measured(text)["garbled"] == garbled


@pytest.mark.parametrize(
    ("text", "control", "invisible"),
    [
        ("ab\u200b\x07\ufffd", 2, 1),
        ("tab\tand\nline\r\nfeed\x0c", 0, 0),
        ("zero\u200dwidth, \u200cstart, \ufeffmark, soft\u00adhyphen", 0, 4),
        ("\u202ereversed\u202c", 0, 2),
        ("می\u200cخواهم 👩\u200d🔬", 0, 0),  # where joiners belong
        ("nul\x00 del\x7f nel\x85", 3, 0),
    ],
)
def test_characters_that_nobody_sees_are_counted(text: str, control: int, invisible: int) -> None:
    found = measured(text)
    assert (found["control_characters"], found["invisible_characters"]) == (control, invisible)


@pytest.mark.parametrize(
    ("text", "markup"),
    [
        ("Reuters - It#39;s &lt;b&gt;new&lt;/b&gt;", 5),
        ("<p class='x'>one</p><br/>", 3),
        ("a < b and c > d, AT&T, R&D; item #39", 0),
        ("&amp;#8217; and &nbsp;", 3),
    ],
)
def test_what_is_left_of_markup_is_counted(text: str, markup: int) -> None:
    assert measured(text)["markup"] == markup


def test_repetition_is_told_of_words_or_of_characters() -> None:
    assert measured("a b c " * 10)["repeated_share"] == pytest.approx(1 - 3 / 28)
    assert measured("all words differ here now")["repeated_share"] == 0
    assert measured("hahahahahaha")["repeated_share"] == pytest.approx(1 - 2 / 10)
    assert math.isnan(measured("ha!")["repeated_share"])


def test_planted_measures() -> None:
    found = measured("two words")
    assert found["words"] == 2 and found["characters"] == 9
    assert measured("a1 2")["letter_share"] == 0.25
    kinds = {"email_count": 1, "phone_count": 1, "ip_count": 1, "card_count": 1}
    one_each = measured("a@b.org, +49 30 901820, 81.2.69.142, 4111111111111111")
    assert {name: one_each[name] for name in kinds} == kinds


ENGLISH = "The committee will meet again on Thursday to discuss the budget of the coming year."
GERMAN = "Der Ausschuss trifft sich am Donnerstag wieder, um über den Haushalt zu beraten."


def test_a_text_in_another_language_is_foreign() -> None:
    assert measured(ENGLISH, ["en"])["foreign"] < 0.1 < 0.9 < measured(GERMAN, ["en"])["foreign"]
    assert measured(GERMAN, ["en", "de"])["foreign"] < 0.1


@pytest.mark.parametrize(
    ("text", "languages"), [(GERMAN, None), ("Genau!", ["en"]), ("1 + 1 = 2 " * 9, ["en"])]
)
def test_a_language_that_is_not_looked_at_or_cannot_be_told_is_not_measured(
    text: str, languages: list[str] | None
) -> None:
    assert math.isnan(measured(text, languages)["foreign"])


def test_a_language_that_does_not_exist_is_refused_by_name() -> None:
    with pytest.raises(BadInput, match=r"languages: \['xx'\].*there are .*en"):
        measured(ENGLISH, ["en", "xx"])
