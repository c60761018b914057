from launcher.commands.example_text import example_text

RECORD = {
    "stage": "sft",
    "split": "train",
    "source": "pairs",
    "path": "a.jsonl:3",
    "tokens": 9,
    "trained": 2,
    "left": 0,
    "pieces": [
        {"control": "<|user|>", "id": 1, "trained": False},
        {"text": "one\x1b[2J", "trained": False},
        {"text": "two", "trained": True},
        {"control": "<|end|>", "id": 0, "trained": True},
    ],
}


def test_what_is_trained_stands_in_brackets_or_in_colour():
    plain = example_text(RECORD, coloured=False)
    assert plain.splitlines() == [
        "--- sft: train/pairs, a.jsonl:3, 9 tokens, 2 trained on",
        "[<|user|> 1]one\\x1b[2J[[two[<|end|> 0]]]",
    ]
    coloured = example_text(RECORD, coloured=True)
    assert "\x1b[1;32mtwo[<|end|> 0]\x1b[0m" in coloured
    assert "[[" not in coloured


def test_what_is_not_shown_is_counted_and_ids_are_listed_on_request():
    text = example_text(RECORD | {"left": 5, "ids": [[7, "two", True]]}, coloured=False)
    assert "5 tokens before this" in text
    assert "       7  * two" in text
