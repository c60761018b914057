"""What a first look says of a model's chat template, and that the stage says it, too."""

import json
import shutil

import pytest

from distrain.config.recipe import Recipe
from distrain.data.chats.encoder import ChatEncoder
from distrain.data.tokenizer.tokenizer import Tokenizer
from distrain.errors import DataError
from launcher.inputs import templates
from launcher.inputs.chats import check_chats
from tests.distrain.data.tokenizer.test_layouts import TEMPLATES, folder_with

TRAINING = {"max_steps": 1}
CHAT = TEMPLATES["chatml"]
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
TURNS = [{"role": "user", "content": "who?"}, {"role": "assistant", "content": "me"}]
CALLING = [TURNS[0], {"role": "assistant", "content": "", "tool_calls": [CALL]}]


def findings(model, rows, tmp_path, **data):
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    stage = {
        "kind": data.pop("kind", "sft"),
        "model": {"from_pretrained": str(model)},
        "training": TRAINING,
        "data": {"path": str(file), **data},
    }
    recipe = Recipe.model_validate({"name": "tuned", "stages": {"sft": stage}})
    return [found for found in check_chats(recipe) if "looked at" not in found.message]


def test_a_template_without_a_stop_token_is_refused_by_both(tmp_path):
    endless = CHAT.replace("<|im_end|>", "")
    model = folder_with(tmp_path / "model", endless)
    [wrong] = findings(model, [{"messages": TURNS}], tmp_path)
    assert not wrong.is_note
    assert wrong.path == ("model", "from_pretrained")
    assert "one that ends an answer with no control token" in wrong.message
    with pytest.raises(DataError, match="ends an answer with no control token"):
        ChatEncoder(model, Tokenizer.load(model))


@pytest.mark.usefixtures("near")
def test_a_stop_token_may_be_one_that_the_stage_adds(tmp_path):
    model = folder_with(tmp_path / "model", CHAT.replace("<|im_end|>", "<|over|>"))
    [wrong] = findings(model, [{"messages": TURNS}], tmp_path)
    assert "one that ends an answer with no control token" in wrong.message
    assert findings(model, [{"messages": TURNS}], tmp_path, add_tokens=["<|over|>"]) == []


def test_a_tokenizer_without_an_end_is_refused_without_asking_anybody(tmp_path, monkeypatch):
    monkeypatch.setattr(templates, "ask_once", lambda *_: pytest.fail("somebody was asked"))
    model = folder_with(tmp_path / "model", None)
    assert findings(model, [{"messages": TURNS}], tmp_path) == []
    (model / "tokenizer_config.json").unlink()
    content = json.loads((model / "tokenizer.json").read_text())
    for token in content["added_tokens"]:
        token["content"] = token["content"].replace("endoftext", "over")
    (model / "tokenizer.json").write_text(json.dumps(content))
    [wrong] = findings(model, [{"messages": TURNS}], tmp_path)
    assert "without an end-of-text token" in wrong.message


@pytest.mark.usefixtures("near")
def test_what_a_template_drops_is_named_by_row_and_arguments_that_it_never_reads(tmp_path):
    model = folder_with(tmp_path / "model", "{% set mood = enable_thinking %}" + CHAT)
    rows = [{"messages": TURNS}, {"messages": CALLING}, {"messages": TURNS}]
    given = {"template_arguments": {"enable_thinking": False, "enable_thinkin": True}}
    note, wrong = findings(model, rows, tmp_path, **given)
    assert note.is_note
    assert "never reads 'enable_thinkin'" in note.message
    assert f"{tmp_path}/rows.jsonl:2: messages[1].tool_calls[0].function.name" in wrong.message
    assert not wrong.is_note
    # Within the budget of either split it may be left out: told, and no mistake.
    *_, within = findings(model, rows, tmp_path, skip_budget=1, **given)
    assert within.is_note


@pytest.mark.usefixtures("near")
def test_preferences_are_laid_out_both(tmp_path):
    model = folder_with(tmp_path / "model", CHAT)
    row = {"prompt": TURNS[:1], "chosen": TURNS[1:], "rejected": [{**TURNS[1], "content": "I"}]}
    assert findings(model, [row], tmp_path, kind="preference") == []
    [wrong] = findings(model, [{**row, "rejected": CALLING[1:]}], tmp_path, kind="preference")
    assert "rows.jsonl:1 (rejected): messages[1].tool_calls" in wrong.message


def test_our_own_template_reads_no_argument(tmp_path):
    model = folder_with(tmp_path / "model", None)
    [note] = findings(model, [{"messages": TURNS}], tmp_path, template_arguments={"day": 1})
    assert note.is_note
    assert "never reads 'day'" in note.message
    shutil.rmtree(model)  # as of a file that is not here
    assert findings(model, [{"messages": TURNS}], tmp_path, template_arguments={"day": 1}) == []
