"""What is known of new tokens before the queue; mistakes: ``tests/recipes/mistakes/inputs``."""

import json
import shutil

import pytest

from distrain.config.added_tokens import with_tokens
from distrain.config.recipe import Recipe
from distrain.tools.first_look import answer
from launcher.base_tokenizers import grown_rows, reads_alike, tokenizer_after
from launcher.estimate import checkpoint_bytes, stage_memory, stage_parameters, stage_vocab_size
from launcher.inputs import templates
from launcher.inputs.beside import check_beside
from launcher.inputs.chats import check_chats
from launcher.inputs.new_tokens import check_new_tokens
from tests.distrain.data.tokenizer.test_layouts import TEMPLATES, folder_with
from tests.launcher.inputs.test_checks import MISTAKES

GOOD = MISTAKES / "models" / "good"
SAVED = {"modules_to_save": ["embed_tokens", "lm_head"]}


def recipe_of(model, **stages):
    whole = {
        name: {"kind": "sft", "training": {"max_steps": 1, "sequence_length": 64}, "lora": None}
        | ({"model": {"from_pretrained": str(model)}} if "needs" not in stage else {})
        | stage
        for name, stage in stages.items()
    }
    return Recipe.model_validate({"name": "tuned", "stages": whole})


def data(*names):
    return {"path": str(MISTAKES / "data" / "pairs.jsonl"), "add_tokens": names}


def test_each_stage_goes_on_from_the_tokens_of_those_before_it():
    recipe = recipe_of(
        GOOD,
        first={"data": data("<x>", "<y>")},
        second={"data": data("<y>", "<z>"), "needs": ["first"]},
        wrong={"data": data("<xx", "<y>x"), "needs": ["second"]},
        later={"data": data("<w>"), "needs": ["wrong"]},
    )
    found = {finding.stage: finding for finding in check_new_tokens(recipe)}
    assert found["first"].message == "data.add_tokens: 2 new tokens with the ids 8 to 9"
    assert found["second"].message == (
        "data.add_tokens: 1 new token with the id 10; tokens already, which stay as they are: "
        "<y> (9)"
    )
    assert not found["wrong"].is_note
    assert found["wrong"].path == ("data", "add_tokens")
    assert "later" not in found, "its mistake is told where it is"
    assert grown_rows(recipe, "second", 8) == 11
    assert grown_rows(recipe, "second", 64) == 64, "spare rows are used first"


def test_the_plan_counts_rows_of_new_tokens_and_tables_that_part(tmp_path):
    model = shutil.copytree(GOOD, tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    recipe = recipe_of(
        model,
        plain={"data": data()},
        full={"data": data("<x>", "<y>")},
        parts={"data": data("<x>", "<y>"), "lora": SAVED | {"r": 1}},
        later={"data": data(), "needs": ["parts"]},
    )
    plain, full, parts, later = (stage_parameters(recipe, name) or 0 for name in recipe.stages)
    assert full == plain + 2 * 16
    assert parts == later == plain + 2 * 16 + 10 * 16
    assert [stage_vocab_size(recipe, name) for name in recipe.stages] == [8, 10, 10, 10]
    assert checkpoint_bytes(recipe, "full") == 12 * full
    memory = stage_memory(recipe, "parts", 64) or {}
    tables = 2 * 10 * 16
    adapters = 4 * (16 + 16) + 3 * (16 + 32)
    assert memory["lora"].trained == tables + adapters
    assert memory["full"].trained == full, "what stays tied without adapters"


def test_of_a_tokenizer_that_the_run_makes_only_its_own_tokens_are_known():
    source = {"kind": "files", "paths": ["texts"]}
    prepare = {"kind": "prepare", "data": {"source": source}, "tokenizer": {"vocab_size": 300}}
    pretrain = {"kind": "pretrain", "needs": ["prepare"], "training": {"max_steps": 1}}
    sft = {
        "kind": "sft", "needs": ["pretrain"], "lora": None, "training": {"max_steps": 1},
        "data": {"add_tokens": ["<|user|>", "<|x|>"]},
    }  # fmt: skip
    stages = {"prepare": prepare, "pretrain": pretrain, "sft": sft}
    recipe = Recipe.model_validate({"name": "made", "stages": stages})
    assert list(check_new_tokens(recipe)) == []
    assert (stage_vocab_size(recipe, "pretrain"), stage_vocab_size(recipe, "sft")) == (300, 301)


def test_a_model_stands_beside_one_that_has_got_more_tokens_and_beside_no_other(tmp_path):
    other = shutil.copytree(GOOD, tmp_path / "other")
    content = json.loads((other / "tokenizer.json").read_text())
    evaluate = {"kind": "evaluate", "data": {"path": "x.jsonl", "beside": str(other)}}
    stages = {
        "sft": {
            "kind": "sft", "lora": None, "training": {"max_steps": 1},
            "model": {"from_pretrained": str(GOOD)}, "data": data("<x>", "<y>"),
        },
        "of": {**evaluate, "needs": ["sft"]},
    }  # fmt: skip
    recipe = Recipe.model_validate({"name": "beside", "stages": stages})
    for new in ({}, {"<x>": 8}, {"<x>": 8, "<y>": 9}):
        (other / "tokenizer.json").write_text(json.dumps(with_tokens(content, new)))
        assert not [finding.message for finding in check_beside(recipe)]
    assert with_tokens(content, new) == tokenizer_after(recipe, "of")
    # Others, or more than the measured model has, are other ids.
    for new in ({"<y>": 8}, {"<x>": 8, "<y>": 9, "<z>": 10}):
        (other / "tokenizer.json").write_text(json.dumps(with_tokens(content, new)))
        [wrong] = check_beside(recipe)
        assert "another tokenizer than that of the measured model" in wrong.message
        assert not reads_alike(recipe, "of", other / "tokenizer.json")


def test_a_template_is_judged_with_the_tokens_that_the_stage_adds(tmp_path, monkeypatch):
    """The model's own tokenizer lacks what ends an answer."""
    # The process that is asked, see test_templates.py, takes seconds to start.
    monkeypatch.setattr(templates, "ask_once", lambda _, asked: answer(json.loads(asked)))
    template = TEMPLATES["chatml"].replace("<|im_end|>", "<|over|>")
    model = folder_with(tmp_path / "model", template)
    plain = recipe_of(model, sft={"data": data()})
    [note, wrong] = check_chats(plain)
    assert note.is_note
    assert "no control token" in wrong.message
    recipe = recipe_of(model, sft={"data": data("<|over|>")})
    assert [finding.message for finding in check_chats(recipe)] == [note.message]


@pytest.mark.parametrize("named", [["<|over|>"], ["a"]])
def test_a_name_is_told_once(tmp_path, named):
    model = folder_with(tmp_path / "model", None)
    recipe = recipe_of(model, sft={"data": data(*named)})
    assert all(finding.is_note for finding in check_chats(recipe))
    assert len(list(check_new_tokens(recipe))) == 1
