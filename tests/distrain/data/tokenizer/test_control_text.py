"""Ids of texts in pieces, and the piece that each token ends in."""

import json

import pytest

from distrain.data.tokenizer.control_text import ControlText, TextPieces
from distrain.data.tokenizer.tokenizer import Tokenizer
from tests.distrain.data.tokenizer.encoders.made import byte_level

TEXTS = [
    TextPieces(
        ["<|user|>\n", "a z ½ <|user|>", "\n", "", "<|endoftext|>"], [False, True] * 2 + [False]
    ),
    TextPieces(["", "zz 12"], [False, True]),
    TextPieces(["<|user|>", "\u00a0 no break", "<|endoftext|>\n"], [False, True, False]),
]


def control_text(tmp_path, *, without):
    content = json.loads(byte_level("bpe", "gpt2"))
    model = content["model"]
    model["merges"] = [pair for pair in model["merges"] if without not in "".join(pair)]
    model["vocab"] = {piece: n for piece, n in model["vocab"].items() if without not in piece}
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps(content))
    return ControlText(Tokenizer.load(file))


@pytest.mark.parametrize("without", ["no such piece", "z"])
def test_words_that_are_looked_up_have_the_ids_and_places_of_the_library(tmp_path, without):
    by_words = control_text(tmp_path, without=without)
    by_text = control_text(tmp_path, without=without)
    assert by_words._engine is not None
    by_text._engine = None
    for text, found, wanted in zip(
        TEXTS, by_words.encode(TEXTS), by_text.encode(TEXTS), strict=True
    ):
        assert list(found.ids) == list(wanted.ids)
        assert found.numbers().tolist() == wanted.numbers().tolist()
        # Where a byte is lost on the way, sums of bytes would put what follows too far forward.
        assert found.numbers()[-1] == len(text.texts) - 1
