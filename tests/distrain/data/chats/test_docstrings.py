import textwrap

import pytest

from distrain.config.data import PairsConfig
from distrain.data.chats.docstrings import docstring_pairs

CONFIG = PairsConfig(kind="docstrings", min_answer_characters=5, max_answer_characters=60)


def pairs(source, path="m.py", config=CONFIG):
    return [
        (pair.prompt, pair.answer, pair.path)
        for pair in docstring_pairs(textwrap.dedent(source).strip("\n"), path, config)
    ]


def test_signature_and_body_ask_and_the_docstring_answers():
    source = '''
        class Shape:
            """A class makes no pair."""

            def area(self,
                     side):
                """Return the area.

                    Indented.
                Not indented.
                """
                # why
                return side * side

            async def later(self):
                "Do it later."
                return 1
    '''
    assert pairs(source) == [
        (
            "def area(self,\n         side):\n    # why\n    return side * side",
            "Return the area.\n\n    Indented.\nNot indented.",
            "m.py:4",
        ),
        ("async def later(self):\n    return 1", "Do it later.", "m.py:14"),
    ]


@pytest.mark.parametrize(
    "source",
    [
        'def f(): "shares its line"',
        'def f(a,\n      b): "shares a line"',
        'def f():\n    "shares a line"; return 1',
        "def f():\n    return 'no docstring'",
        'def f():\n    "tiny"\n    return 1',
        'def f():\n    "' + "long " * 20 + '"\n    return 1',
        "def f(:\n    broken python",
        "print 'of another version'",
        "x = (" * 500,
    ],
)
def test_what_makes_no_clean_pair_makes_none(source):
    assert pairs(source) == []


def test_positions_hold_with_characters_of_several_bytes():
    source = 'def f():\n    """Überlänge: 漢字."""\n    return "é"'
    assert pairs(source) == [('def f():\n    return "é"', "Überlänge: 漢字.", "m.py:1")]


def test_a_long_function_keeps_the_whole_lines_of_its_beginning():
    body = "".join(f"    x{n} = {n}\n" for n in range(100))
    source = f'def f():\n    """Count far."""\n{body}'
    config = CONFIG.model_copy(update={"max_prompt_characters": 50})
    ((prompt, _, _),) = pairs(source, config=config)
    assert prompt == "def f():\n    x0 = 0\n    x1 = 1\n    x2 = 2"
    assert pairs(source, config=config.model_copy(update={"max_prompt_characters": 5})) == []


def test_other_files_than_python_make_no_pairs():
    assert pairs('def f():\n    "It is here."\n    return 1', path="notes.md") == []
