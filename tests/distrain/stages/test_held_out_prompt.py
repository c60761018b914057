import shlex

import pytest

from distrain.data.shards.reader import open_split
from distrain.data.tokenizer.tokenizer import Tokenizer
from distrain.stages.held_out_prompt import held_out_prompt, prompt_in


def test_the_prompt_is_a_line_of_the_validation_split_and_is_in_the_figures(prepared):
    folder, figures = prepared
    tokenizer = Tokenizer.load(folder.tokenizer)
    prompt = held_out_prompt(folder.path, tokenizer)
    split = open_split(folder.path, "validation", stage_kind="pretrain")
    texts = [tokenizer.decode(split.document(n).tolist()) for n in range(split.num_documents)]
    assert prompt
    assert any(prompt in text for text in texts)
    assert figures["prompt"] == prompt


@pytest.mark.parametrize(
    ("text", "prompt"),
    [
        ("The man went slowly over the bridge by night.", "The man went slowly over the bridge by"),
        ("Der alte Mann ging über die Straße.", "Der alte Mann ging über die Straße."),
        ('"""A module."""\nimport os\n\n    def area(side):\n', "def area(side):"),
        ("short\n# a comment\n\x1b[1mbold words here", None),
        ("no_space_anywhere" * 9, ("no_space_anywhere" * 9)[:40]),
        ("it costs $100 and `rm` too", None),
    ],
)  # fmt: skip
def test_a_prompt_can_be_typed_as_it_stands(text, prompt):
    assert prompt_in(text) == prompt
    assert prompt is None or shlex.split(f'"{prompt}"') == [prompt]
