"""What becomes of names that a recipe adds to a tokenizer."""

import copy

import pytest
from pydantic import TypeAdapter, ValidationError

from distrain.config.added_tokens import (
    TokenNameError,
    TokenNames,
    first_free_id,
    is_grown_from,
    plan_tokens,
    with_tokens,
)


def content(pieces=("a", "b", "ab"), control=("<s>", "</s>"), **ids):
    vocabulary = {piece: number for number, piece in enumerate((*control, *pieces))} | ids
    added = [
        {"id": number, "content": name, "special": True} for number, name in enumerate(control)
    ]
    return {"model": {"type": "BPE", "vocab": vocabulary}, "added_tokens": added}


UNIGRAM = {
    "model": {"type": "Unigram", "vocab": [["<unk>", 0.0], ["▁a", -1.5], ["b", -2.0]]},
    "added_tokens": [{"id": 0, "content": "<unk>", "special": True}],
}


@pytest.mark.parametrize(("base", "first"), [(content(), 5), (UNIGRAM, 3)])
def test_new_names_get_the_ids_after_the_last_one_and_known_ones_stay(base, first):
    known = base["added_tokens"][0]["content"]
    planned = plan_tokens(base, ["<|b|>", known, "<|a|>"])
    assert planned.new == {"<|b|>": first, "<|a|>": first + 1}
    assert planned.known == {known: 0}
    grown = with_tokens(base, planned.new)
    assert first_free_id(grown) == first + 2
    # What one stage adds, a later one finds, and goes on after it.
    again = plan_tokens(grown, ["<|a|>", "<|c|>"])
    assert (again.known, again.new) == ({"<|a|>": first + 1}, {"<|c|>": first + 2})


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["ab"], "'ab', a piece of the tokenizer's vocabulary"),
        (["<s>x"], "'<s>x', which overlaps the token '<s>'"),
        (["s"], "'s', which overlaps the token '<s>'"),
        (["<|x|>", "|x"], "'|x', which overlaps the token '<|x|>'"),
    ],
)
def test_a_name_that_text_could_give_or_that_two_tokens_share_is_refused(names, found):
    with pytest.raises(TokenNameError) as error:
        plan_tokens(content(), names)
    assert error.value.found.startswith(found)
    assert "<|ab|>" in plan_tokens(content(), ["<|ab|>"]).new  # the control: what it proposes


def test_ids_with_gaps_are_refused_since_the_library_counts_pieces():
    gaps = content(z=9)
    with pytest.raises(TokenNameError, match=r"would number 6 in a tokenizer with ids up to 9"):
        plan_tokens(gaps, ["<|x|>"])
    assert plan_tokens(gaps, ["<s>"]).new == {}  # nothing is numbered
    # A later control token that stands beyond the gap is what the library counts from.
    after = with_tokens(gaps, {"<last>": 10})
    assert plan_tokens(after, ["<|x|>"]).new == {"<|x|>": 11}


def test_a_grown_tokenizer_is_known_by_what_was_before():
    base = content()
    grown = with_tokens(base, {"<|x|>": 5})
    assert is_grown_from(grown, base)
    assert is_grown_from(base, base)
    assert is_grown_from(with_tokens(UNIGRAM, {"<|x|>": 3}), UNIGRAM)
    without = {key: value for key, value in UNIGRAM.items() if key != "added_tokens"}
    assert is_grown_from(with_tokens(without, {"<|x|>": 3}), without)
    # Controls: not the other way, no other pieces, no other first tokens, no tokens of text.
    assert not is_grown_from(base, grown)
    assert not is_grown_from(grown, content(pieces=("a", "b", "ba")))
    assert not is_grown_from(grown, content(control=("<s>", "<e>")))
    ordinary = copy.deepcopy(grown)
    ordinary["added_tokens"][-1]["special"] = False
    assert not is_grown_from(ordinary, base)


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ([""], "a token needs a name"),
        (["<a b>"], "holds white space or a control character"),
        (["<a\x00>"], "holds white space or a control character"),
        (["<\u00ad>"], "holds white space or a control character"),
        (["<e\u0301>"], r"another text once it is normalised \(NFC\)"),
        (["<a>", "<b>", "<a>"], "'<a>' is there twice"),
    ],
)
def test_names_that_cannot_be_written_are_refused_by_the_schema(names, found):
    with pytest.raises(ValidationError, match=found):
        TypeAdapter(TokenNames).validate_python(names)
    assert TypeAdapter(TokenNames).validate_python(["<\u00e9>", "<|a|>"]) == ("<\u00e9>", "<|a|>")
