import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distrain.config.curation import PiiConfig
from distrain.data.curate import pii
from distrain.data.curate.pii import (
    CARDS,
    EMAILS,
    IPV4,
    IPV6,
    PHONES,
    choose,
    passes_luhn,
    replace_pii,
)

GOLDEN = [1, 0, 1, 1]
ALL = PiiConfig(phone_numbers=True, card_numbers=True)
MATCHES = {
    "jane.doe@mail.university.edu": EMAILS,
    "o'neil+list@a-b.co": EMAILS,
    "jane@notexample.com": EMAILS,
    "8.8.8.8": IPV4,
    "255.8.0.77": (),  # reserved
    "193.0.14.129": IPV4,
    "2a00:1450:4001:81b::200e": IPV6,
    "+49 30 901820": PHONES,
    "+1 (212) 555-2368": PHONES,
    "4012 8888 8888 1881": CARDS,
    "378282246310005": CARDS,
}
OTHERS = [
    "user@localhost",
    "a@b",
    "@decorator",
    "x = a@b.T",
    "who@example.com",
    "sub@mail.example.org",
    "10.0.0.1",
    "127.0.0.1",
    "192.168.1.77",
    "192.0.2.1",
    "1.2.3",
    "version 1.2.3.4.5",
    "1.2.3.4b1",
    "01.2.3.4",
    "300.1.1.1",
    "std::vector::size",
    "fe80::1",
    "2001:db8::17",
    "12:34:56",
    "2024:01:02",
    "+1",
    "a+4930901820",
    "1234 5678 9012 3456",
    "3.141592653589793238",
]


@pytest.mark.parametrize(("match", "replacements"), MATCHES.items())
@pytest.mark.parametrize("frame", ["{}", "see {}.", "('{}'), and", "\n{}\n"])
def test_personal_data_are_replaced_whatever_is_around_them(match, replacements, frame):
    replaced = replace_pii(frame.format(match), ALL)
    assert replaced in {frame.format(item) for item in replacements or [match]}


@pytest.mark.parametrize("text", OTHERS)
@pytest.mark.parametrize("frame", ["{}", "see {}.", "({}), and", "\n{}\n"])
def test_what_only_looks_like_it_stays(text, frame):
    assert replace_pii(frame.format(text), ALL) == frame.format(text)


def test_each_kind_can_be_switched_off():
    text = "\n".join(match for match, replacements in MATCHES.items() if replacements)
    off = PiiConfig(emails=False, ip_addresses=False)
    assert replace_pii(text, off) == text
    for kind, kept in (
        ("emails", "8.8.8.8"),
        ("ip_addresses", "jane.doe@mail"),
        ("phone_numbers", "8.8.8.8"),
        ("card_numbers", "8.8.8.8"),
    ):
        replaced = replace_pii(text, PiiConfig(**off.model_dump() | {kind: True}))
        assert replaced != text
        assert kept in replaced


@given(st.permutations([*MATCHES, *OTHERS]), st.sampled_from([" | ", "\n", ", "]))
@settings(max_examples=50, deadline=None)
def test_the_replacement_depends_on_the_match_alone(texts, separator):
    together = replace_pii(separator.join(texts), ALL)
    assert together == separator.join(replace_pii(text, ALL) for text in texts)


@given(st.lists(st.sampled_from([*MATCHES, *OTHERS, *PHONES, *CARDS, "@", ".", "-", "a"])))
@settings(max_examples=200, deadline=None)
def test_replaced_once_a_text_stays(texts):
    once = replace_pii(" | ".join(texts), ALL)
    assert replace_pii(once, ALL) == once


def test_the_choice_is_the_same_in_every_process_and_uses_all_replacements():
    assert [choose(f"user{n}@mail.net", EMAILS) for n in range(4)] == [EMAILS[n] for n in GOLDEN]
    assert {choose(f"user{n}@mail.net", IPV4) for n in range(99)} == set(IPV4)


@pytest.mark.parametrize(
    "text",
    [
        "a-" * 200_000,
        "a@" * 200_000,
        "a.a@" * 100_000,
        "a@b." * 100_000,
        "1." * 200_000,
        "2a00:" * 100_000,
        "+1 " * 100_000,
        "1 " * 200_000,
    ],
)
def test_no_text_takes_more_than_linear_time(text):
    """Half a megabyte each; an expression that backtracks would take hours."""
    start = time.process_time()
    replace_pii(text, ALL)
    assert time.process_time() - start < 5


@pytest.mark.parametrize(
    ("digits", "passes"),
    [("79927398713", True), ("79927398710", False), ("4111111111111111", True)],
)
def test_luhn_check(digits, passes):
    assert passes_luhn(digits) == passes


def test_replacements_are_reserved_for_examples_and_pass_their_own_checks():
    assert all(passes_luhn(pii._digits(card)) for card in CARDS)
    for replacement in (*EMAILS, *IPV4, *IPV6, *PHONES, *CARDS):
        assert replace_pii(replacement, ALL) == replacement
