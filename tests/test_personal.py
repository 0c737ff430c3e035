import pytest
from hypothesis import given
from hypothesis import strategies as st

from winnow.data.measures import personal

PLANTED = [
    ("email address", "jane.doe+news@mail.example.co.uk"),
    ("email address", "o_brien@example.org"),
    ("phone number", "+49 30 901820"),
    ("phone number", "+1 (702) 259-4076"),
    ("phone number", "(702) 259-4076"),
    ("phone number", "702-259-4076"),
    ("phone number", "+442079460958"),
    ("IP address", "81.2.69.142"),
    ("IP address", "2a00:1450:4001:81b::200e"),
    ("card number", "4111 1111 1111 1111"),
    ("card number", "5500-0055-5555-5559"),
    ("card number", "378282246310005"),
]


@pytest.mark.parametrize(("kind", "written"), PLANTED, ids=[written for _, written in PLANTED])
@pytest.mark.parametrize("around", ["{}", "Write to {}.", "({}), or not", "x\n{}\ny", "it: {}; and"])
def test_personal_data_is_counted_and_masked(kind: str, written: str, around: str) -> None:
    text = around.format(written)
    assert personal.count(text) == {name: int(name == kind) for name in personal.KINDS}
    assert personal.mask(text) == around.format(f"[{kind}]")


@pytest.mark.parametrize(
    "text",
    [
        "4111 1111 1111 1112",  # the sum is wrong
        "0000 0000 0000 0000",
        "4444444444444",
        "127.0.0.1 and 192.168.1.20 lead to nobody",
        "version 1.2.3, section 10.4.300.2, 999.1.1.1",
        "from 1994-1998, on 2004-10-12 at 12:30:45, 555-1234",
        "doi:10.1088/0026-1394/44/2/003, ISBN 978-3-16-148410-0",
        "std::vector<a::b>, x[1:2:3], 12:30:45:10:20",
        "def f(self) @ numpy, me@home, @user",
        "1000000000000000000000000",
        "pi is 3.14159265358979",
    ],
)
def test_other_numbers_and_signs_are_left_alone(text: str) -> None:
    assert personal.find(text) == [] and personal.mask(text) == text


def test_all_of_a_text_is_masked_in_place() -> None:
    text = "Call +49 30 901820 or a@b.de; card 4111111111111111, a@b.de again."
    assert personal.count(text) == {
        "email address": 2, "phone number": 1, "IP address": 0, "card number": 1,
    }  # fmt: skip
    assert personal.mask(text) == (
        "Call [phone number] or [email address]; card [card number], [email address] again."
    )


@given(st.text(alphabet="ab@.:+-() 0123456789é", max_size=60))
def test_spans_lie_in_the_text_and_nothing_else_is_changed(text: str) -> None:
    spans = personal.find(text)
    assert spans == sorted(spans) and all(0 <= s.start < s.end <= len(text) for s in spans)
    if not spans:
        assert personal.mask(text) == text
    assert sum(personal.count(text).values()) == len(spans)
    assert all(text[span.start : span.end] not in personal.mask(text) for span in spans)
