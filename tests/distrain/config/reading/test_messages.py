# ruff: noqa: E501  (a table: a line of a recipe and the message that it gets)
"""pydantic's words never reach the user: each type of mistake has plain ones."""

import pytest

from distrain.config.reading.foreign_names import (
    EXPLANATIONS,
    FOREIGN_NAMES,
    FOREIGN_WORDS,
    OTHER_MEANINGS,
)
from distrain.config.reading.load import load_recipe
from distrain.config.reading.problems import RecipeErrors
from distrain.config.reading.sections import SECTIONS, STAGE_KINDS, choices_at, keys_of
from tests.distrain.config.conftest import TINY


def problem_of(recipe, line):
    """Put one line into the pretrain stage and return the message about it."""
    start, end = TINY.index("    model: {"), TINY.index("  sft:")
    recipe.write_text(f"{TINY[:start]}    {line}\n{TINY[end:]}")
    with pytest.raises(RecipeErrors) as caught:
        load_recipe(recipe)
    (problem,) = caught.value.problems
    return problem.message


STEPS = "training: {max_steps: 10}"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("training: {max_steps: x}", "training.max_steps: 'x' is not a count; write a number such as 500, 512k, 10M or 2.5B"),
        ("training: {max_steps: true}", "training.max_steps: found true; expected a whole number"),
        ("training: {max_steps: [1]}", "training.max_steps: found a list of 1; expected a whole number"),
        ("training: {max_steps: 0}", "training.max_steps: found 0; expected a number of at least 1"),
        ("training: {max_steps: 1.5}", "training.max_steps: found 1.5; expected a whole number"),
        ("training: {max_steps: 10, num_threads: 2k}", "training.num_threads: found the text '2k'; expected a whole number; write 2000"),
        ("training: {max_steps: 10, early_stopping: 3}", "training.early_stopping: found 3; expected a mapping"),
        ("training: {max_steps: 10, precision: 32}", "training.precision: found 32; expected auto or fp32 or bf16 or fp64"),
        (f"{STEPS}\n    optimizer: {{betas: 0.9}}", "optimizer.betas: found 0.9; expected a list"),
        (f"{STEPS}\n    optimizer: {{betas: [1, 2, 3]}}", "optimizer.betas: found a list of 3; expected at most 2 entries"),
        (f"{STEPS}\n    optimizer: {{betas: [0.9, x]}}", "optimizer.betas.1: found the text 'x'; expected a number"),
        (f"{STEPS}\n    optimizer: {{eps: .inf}}", "optimizer.eps: found .inf; expected a finite number"),
        (f"{STEPS}\n    optimizer: {{eps: '1e-8'}}", "optimizer.eps: found the text '1e-8'; expected a number; remove the quotes"),
        (f"{STEPS}\n    optimizer: {{eps: null}}", "optimizer.eps: found null; expected a number"),
        (f"{STEPS}\n    model: {{dropout: 1.0}}", "model.dropout: found 1.0; expected a number less than 1"),
        (f"{STEPS}\n    model: {{tie_word_embeddings: off}}", "model.tie_word_embeddings: found the text 'off'; expected true or false; write false"),
        (f"{STEPS}\n    parallelism: {{zero_stage: 4}}", "parallelism.zero_stage: found 4; expected 1, 2 or 3"),
        (f"{STEPS}\n    parallelism: {{data_parallel_shard: all}}", "unknown parallelism.data_parallel_shard 'all'; expected one of: auto, a whole number"),
        (f"{STEPS}\n    parallelism: {{data_parallel_shard: 0}}", "parallelism.data_parallel_shard: found 0; expected a number of at least 1 or auto"),
        (f"{STEPS}\n    logging: {{wandb: on}}", "logging.wandb: found the text 'on'; expected a mapping"),
        (f"{STEPS}\n    logging: {{wandb: {{project: 1}}}}", 'logging.wandb.project: found 1; expected text; write it in quotes: "1"'),
        (f"{STEPS}\n    lora: {{r: 4}}", "this stage has no section 'lora'; it is of sft and preference stages"),
        (f"{STEPS}\n    velocity: 1", "unknown key 'velocity' in this stage; known keys: needs, from_checkpoint, model, training, optimizer, lr_scheduler, parallelism, checkpoint, eval, logging, kind, data"),
        (f"{STEPS}\n    kind: pretrain", "'kind' is given twice, first in line 12; keep one"),
    ],
)  # fmt: skip
def test_each_type_of_mistake_has_plain_words(line, message, recipe):
    assert problem_of(recipe, line) == message


def test_two_keys_that_a_section_lacks_are_both_named(recipe):
    recipe.write_text(TINY.replace("source: {kind: python_stdlib}", "source: {kind: datasets}"))
    with pytest.raises(RecipeErrors) as caught:
        load_recipe(recipe)
    assert [problem.message for problem in caught.value.problems] == [
        "missing key 'format' in data.source; add it",
        "missing key 'paths' in data.source; add it",
    ]


def test_defaults_are_checked_although_no_stage_uses_them(recipe):
    recipe.write_text(TINY.replace("defaults:\n", "defaults:\n  lora: {rank: 4, dropout: x}\n"))
    with pytest.raises(RecipeErrors) as caught:
        load_recipe(recipe, skip=("sft", "evaluate"))
    assert [problem.message for problem in caught.value.problems] == [
        "unknown key 'rank' in lora; 'rank' is torchtune's name; here it is lora.r",
        "lora.dropout: found the text 'x'; expected a number",
    ]


def test_what_other_tools_names_stand_for_exists():
    for name, (_, here) in FOREIGN_NAMES.items():
        section, _, key = here.split(",")[0].split(" ")[0].rstrip(":").partition(".")
        if section in SECTIONS and key:
            assert key.split(".")[0] in keys_of(section), name
        assert all(name not in keys_of(known) for known in SECTIONS), f"{name} is a key of ours"


def test_what_is_explained_as_missing_is_not_there():
    for name in EXPLANATIONS:
        assert all(name not in keys_of(known) for known in SECTIONS), f"{name} is a key of ours"


def test_what_has_another_meaning_is_there():
    for name in OTHER_MEANINGS:
        assert any(name in keys_of(known) for known in SECTIONS), f"{name} is no key of ours"


@pytest.mark.parametrize("setting", FOREIGN_WORDS)
def test_words_of_other_tools_are_not_among_ours(setting):
    schema = choices_at(STAGE_KINDS["pretrain"], tuple(setting.split(".")))
    ours = tuple(STAGE_KINDS) if setting == "kind" else schema
    assert ours
    assert not set(FOREIGN_WORDS[setting]) & set(ours)
