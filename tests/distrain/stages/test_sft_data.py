import copy
import json
import logging
import re
from dataclasses import replace

import pytest

from distrain.config.labels import PairChecksConfig
from distrain.config.recipe import EvaluateStage, Recipe
from distrain.config.training import TrainingConfig
from distrain.data.chats.encoder import ChatEncoder, Refused
from distrain.data.chats.pairs_file import Pair
from distrain.errors import DataError
from distrain.runs.folder import RunFolder
from distrain.stages.context import StageContext
from distrain.stages.sft_data import (
    build_encoder,
    check_pairs,
    find_test_examples,
    find_training_examples,
    reading_of,
    tuned_stage_of,
)
from distrain.stages.sft_records import lengths_record
from tests.distrain.data.made_corpus import make_tokenizer

PAIRS = [
    Pair("What is 1 + 1?", "2", "pairs.jsonl:1"),
    Pair("What is 1 + 1?", "3", "pairs.jsonl:2"),
    Pair("What is 2 + 2?", "4", "pairs.jsonl:3"),
    Pair("What is 2 + 2?", "4", "pairs.jsonl:4"),
]


def test_pairs_that_contradict_or_repeat_each_other_are_told(caplog):
    with caplog.at_level(logging.WARNING):
        check_pairs(PAIRS, PairChecksConfig())
    assert "1 of 4 pairs repeat an earlier one" in caplog.text
    assert "2 of 4 pairs have a prompt with several answers" in caplog.text
    assert "pairs.jsonl:1" in caplog.text


def test_more_contradictions_than_allowed_are_refused():
    with pytest.raises(DataError, match=r"data\.checks\.max_conflict_fraction"):
        check_pairs(PAIRS, PairChecksConfig(max_conflict_fraction=0.25))


def test_pairs_without_a_fault_are_not_remarked_upon(caplog):
    check_pairs(PAIRS[1:3], PairChecksConfig(max_conflict_fraction=0.0))
    assert not caplog.text


def context_of(folder, answers, **data):
    """An sft stage on a file of pairs with ``answers``, each after a prompt of its own."""
    path = folder / "pairs.jsonl"
    lines = [
        json.dumps({"prompt": f"question {number}", "answer": answer})
        for number, answer in enumerate(answers)
    ]
    path.write_text("\n".join(lines) + "\n")
    stage = {
        "kind": "sft",
        "needs": [],
        "model": {"from_pretrained": "somewhere"},
        "training": {"max_steps": 2, "sequence_length": 32},
        "data": {"path": str(path), "validation_fraction": 0.2, **data},
    }
    recipe = Recipe.model_validate({"name": "pairs", "stages": {"sft": stage}})
    return StageContext(recipe, RunFolder(folder), "sft", attempt=1)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    made = make_tokenizer(folder)
    return ChatEncoder(folder / "tokenizer.json", made)


LONG = "value " * 40


def test_more_long_answers_than_a_thousandth_are_refused_before_training(tmp_path, tokenizer):
    context = context_of(tmp_path, [LONG] * 2 + ["short"] * 1997)
    with pytest.raises(DataError, match=r"2 of 1,999 pairs .*at most 1 ") as caught:
        find_training_examples(context, tokenizer)
    assert "pairs.jsonl:1" in str(caught.value)
    needed = int(re.findall(r"longest answer needs (\d+)", str(caught.value))[0])
    longer = {"max_steps": 2, "sequence_length": needed}
    stage = context.recipe.stages["sft"].model_copy(
        update={"training": TrainingConfig.model_validate(longer)}
    )
    enough = context.recipe.model_copy(update={"stages": {"sft": stage}})
    train, validation = find_training_examples(replace(context, recipe=enough), tokenizer)
    assert len(train) + len(validation) == 1999


def test_what_makes_no_example_is_not_counted_as_too_long(tmp_path, tokenizer):
    context = context_of(tmp_path, ["short"] * 20 + [""] * 5 + [LONG] * 3, skip_budget=5)
    with pytest.raises(DataError, match="3 of 28 pairs") as caught:
        find_training_examples(context, tokenizer)
    in_brackets = re.findall(r"(\d+) to (?:train|validation)", caught.value.found)
    assert sum(map(int, in_brackets)) == 3


def test_fewer_are_left_out_and_named(tmp_path, tokenizer, caplog):
    context = context_of(tmp_path, ["short"] * 1998 + [LONG] * 2)
    with caplog.at_level(logging.INFO, "distrain"):
        train, validation = find_training_examples(context, tokenizer)
    assert len(train) + len(validation) == 1998
    record = lengths_record({"train": train, "validation": validation}, context.stage)
    assert sum(record["long_answers"].values()) == 2
    assert sorted(record["dropped_pairs"]) == ["pairs.jsonl:1999", "pairs.jsonl:2000"]
    assert "left out" in caplog.text
    assert "pairs.jsonl:1999" in caplog.text


def test_cut_keeps_every_pair_and_counts_the_same_ones(tmp_path, tokenizer, caplog):
    context = context_of(tmp_path, [LONG] * 20 + ["short"] * 20, truncation="cut")
    with caplog.at_level(logging.INFO, "distrain"):
        train, validation = find_training_examples(context, tokenizer)
    assert len(train) + len(validation) == 40
    record = lengths_record({"train": train, "validation": validation}, context.stage)
    assert sum(record["long_answers"].values()) == 20
    assert record["dropped_pairs"] == []
    assert "answers do not fit and lose their end" in caplog.text


def test_cut_prompts_are_counted_and_told_whatever_the_rule(tmp_path, tokenizer, caplog):
    context = context_of(tmp_path, ["value " * 25] * 40)
    with caplog.at_level(logging.INFO, "distrain"):
        train, validation = find_training_examples(context, tokenizer)
    record = lengths_record({"train": train, "validation": validation}, context.stage)
    assert sum(record["cut_prompts"].values()) == 40
    assert "prompts do not fit beside their answer and lose their beginning" in caplog.text


def test_a_file_of_ones_own_has_no_test_pairs(tmp_path, tokenizer):
    assert find_test_examples(context_of(tmp_path, ["short"] * 40), tokenizer) is None


def refusing_one(encoder):
    """An encoder whose template cannot show the first example that it is given."""
    encoder = copy.copy(encoder)
    encode = encoder.encode

    def but_the_first(examples):
        first = Refused(examples[0].path, "dropped", "messages[0].name is not shown")
        return [first, *encode(examples[1:])]

    encoder.encode = but_the_first
    return encoder


def test_what_a_template_refuses_of_the_test_split_is_left_out_and_counted(tmp_path, tokenizer):
    context = context_of(tmp_path, ["short"] * 60, test_fraction=0.3)
    evaluate = EvaluateStage(kind="evaluate", needs=("sft",))
    stages = {**context.recipe.stages, "evaluate": evaluate}
    recipe = context.recipe.model_copy(update={"stages": stages})
    samples = find_test_examples(
        replace(context, recipe=recipe, name="evaluate"), refusing_one(tokenizer)
    )
    assert samples is not None
    assert [left.detail for left in samples.left_out] == ["messages[0].name is not shown"]
    # Control: before training there is time to mend it.
    with pytest.raises(DataError, match=r"messages\[0\]\.name is not shown"):
        find_training_examples(context, refusing_one(tokenizer))


def test_rows_that_make_no_example_are_left_out_within_the_budget_and_named(tmp_path, tokenizer):
    context = context_of(tmp_path, ["short"] * 20 + [""], skip_budget=1)
    train, validation = find_training_examples(context, tokenizer)
    assert len(train) + len(validation) == 20
    [row] = train.left_out
    assert (row.source, row.reason, row.detail) == ("pairs", "row", "'answer' is empty or no text")
    assert row.path.endswith("pairs.jsonl:21")
    with pytest.raises(DataError, match=r"pairs\.jsonl:21: 'answer' is empty"):
        find_training_examples(context_of(tmp_path, ["short"] * 20 + [""]), tokenizer)


def test_sources_of_every_shape_are_examples_by_source(tmp_path, tokenizer):
    rows = {
        "chats": [
            {
                "conversations": [
                    {"from": "human", "value": f"Say {n}."},
                    {"from": "gpt", "value": "So."},
                ]
            }
            for n in range(12)
        ],
        "tasks": [{"instruction": f"Add {n}.", "output": "Done."} for n in range(12)],
        "texts": [{"text": f"It is {n}."} for n in range(12)],
    }
    sources = {}
    for name, some in rows.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(some))
        sources[name] = {"kind": "files", "paths": [str(tmp_path / f"{name}.json")]}
    data = {"path": None, "sources": sources, "mixture": {"chats": 2, "texts": 1}}
    context = context_of(tmp_path, ["short"], **data)
    train, validation = find_training_examples(context, tokenizer)
    assert set(train.fitted) == set(rows)
    assert len(train) + len(validation) == 36
    assert reading_of(context.recipe.stages["sft"]).mixture == {"chats": 2, "texts": 1}


DATED = (
    "{{ strftime_now('%d.%m.') }}{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}"
    "{% if m['role'] == 'assistant' %}<|endoftext|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def test_templates_are_told_the_day_of_the_recipe_else_that_of_an_older_run(tmp_path):
    """Whatever day it is now: no clock is read."""
    made = make_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": DATED}))
    (tmp_path / "events.jsonl").write_text('{"time": "2025-03-01T23:59:59.000Z"}\n')
    for stated, expected in (({"template_date": "2024-12-24"}, "24.12."), ({}, "01.03.")):
        context = context_of(tmp_path, ["short"] * 9, **stated)
        stage = tuned_stage_of(context)
        encoder = build_encoder(context, stage, context.folder, tmp_path, made)
        question = encoder.question([{"role": "user", "content": "Now?"}])
        assert made.decode(question.ids.tolist()).startswith(expected)
