# ruff: noqa: E501  (lines of the page as they are)
"""``docs/recipe.md`` is what the schema says: one line for every key."""

import re
from pathlib import Path

import pytest

from distrain.config.launch import SiteConfig
from distrain.config.reading.json_schema import every_section
from distrain.config.reading.reference import COMMAND, recipe_reference
from distrain.config.reading.sections import is_section, members
from distrain.config.section import Section
from launcher.commands import cli

PAGE = Path(__file__).parents[4] / "docs" / "recipe.md"
WRITTEN = recipe_reference()
LINES = re.findall(r"^\| `([\w.]+)` \| (.+?) \| (.+?) \| (.*?) \|$", WRITTEN, re.MULTILINE)


def test_the_page_is_what_the_schema_says():
    assert PAGE.read_text(encoding="utf-8") == WRITTEN, f"write it: {COMMAND} > docs/recipe.md"


def test_the_command_in_the_page_writes_it(capsys):
    assert cli.main(COMMAND.split()[1:]) == 0
    assert capsys.readouterr().out == WRITTEN


def test_every_key_has_a_line():
    written = {key.rpartition(".")[2] for key, *_ in LINES} | {"kind", "needs"}
    sections: list[type[Section]] = [*every_section(), SiteConfig]
    for section in sections:
        for name, field in section.model_fields.items():
            assert name in written or any(map(is_section, members(field.annotation))), name


def test_every_line_says_something():
    assert len(LINES) > 190
    for key, form, default, words in LINES:
        assert form.strip(), key
        assert default.strip(), key
        assert words.strip(), f"{key} has no docstring below its field"


@pytest.mark.parametrize(
    "line",
    [
        "| `optimizer.betas` | list of 2: number in [0, 1) | `[0.9, 0.95]` | Decay rates of the two moments. |",
        "| `seed` | whole number in [0, 2^63) | `0` | Starting weights, order of the samples and dropout follow from it. |",
        "| `training.max_steps` | count ≥ 1 or null, steps | `null` | Optimizer steps of the stage. |",
        "| `launch.grace_period` | duration ≥ 1 | `2m` | Save and ask for requeue this long before the limit. |",
        '| `pairs.kind` | `docstrings`, `none` | `"none"` | `docstrings`: signature and body of a documented Python function -> its docstring. |',
        "| `data.source.paths` | list of text | required | Files, folders or globs of this machine. |",
    ],
)
def test_a_line_gives_form_unit_default_and_meaning(line):
    assert line in WRITTEN.splitlines()
