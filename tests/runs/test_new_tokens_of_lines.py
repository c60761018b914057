"""Stages of other kinds upon one that adds tokens, and bases of families of transformers."""

import json

import pytest
import torch
from safetensors.torch import load_file

from distrain.config.reading.load import load_recipe
from distrain.data.tokenizer.tokenizer import Tokenizer
from distrain.evaluation.generation import LIKELIEST
from distrain.tools.generate import generate
from launcher.inputs.checks import check_inputs
from tests.runs.forked import finish
from tests.runs.test_new_tokens import SAVED, TOKENS, write

pytestmark = pytest.mark.models  # transformers loads what is exported

LINE = """\
  prefer:
    kind: preference
    needs: sft
    data: {{path: {folder}/preferences.jsonl, add_tokens: ["<|ok|>"], test_fraction: 0.2}}
    lora: {{r: 4, {saved}}}
    training: {{max_steps: 4}}
  prepare:
    kind: prepare
    data:
      source: {{kind: files, paths: [{folder}/texts], format: text}}
      validation_fraction: 0.1
      test_fraction: 0.1
    tokenizer: {{path: {folder}/base/tokenizer.json}}
  more:
    kind: pretrain
    needs: [prefer, prepare]
    training: {{max_steps: 4}}
  beside:
    kind: evaluate
    needs: sft
    data: {{path: {folder}/chats.jsonl, beside: {folder}/base}}
  measured: {{kind: evaluate, needs: prefer}}
  export: {{kind: export, needs: sft}}
  preferred: {{kind: export, needs: prefer}}
  continued: {{kind: export, needs: more}}
launch: {{processes_per_node: 1}}
"""
FAMILIES = {
    "gpt2": (
        {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 128},
        "{r: 4, modules_to_save: [wte, lm_head]}",  # one parameter, which the adapters part
        ("transformer.wte.weight", "lm_head.weight"),
    ),
    "phi": (  # whose output layer has a bias
        {"model_type": "phi", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
         "intermediate_size": 64, "max_position_embeddings": 128},
        f"{{r: 4, {SAVED}}}",
        ("model.embed_tokens.weight", "lm_head.weight", "lm_head.bias"),
    ),
}  # fmt: skip


def result_of(run, stage):
    return json.loads((run / stage / "result.json").read_text())


def test_preferences_and_pretraining_go_on_from_a_grown_base_in_4_bits(tmp_path):
    path = write(tmp_path, method="qlora")
    pairs = (
        {"prompt": f"What is {n} and {n}?", "chosen": f"It is {2 * n}.", "rejected": "It is 1."}
        for n in range(60)
    )
    (tmp_path / "preferences.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    (tmp_path / "texts").mkdir()
    for n in range(40):
        (tmp_path / "texts" / f"{n}.txt").write_text(f"What is {n} and {n}? It is {2 * n}. " * 30)
    begin, _, _ = path.read_text().partition("  again:")
    path.write_text(begin + LINE.format(folder=tmp_path, saved=SAVED))
    loaded = check_inputs(load_recipe(path, ["sft.training.max_steps=40"]))
    run = tmp_path / "runs" / "tokens"
    finish(loaded.recipe, run, *loaded.recipe.stages)
    known = Tokenizer.load(tmp_path / "base").vocab_size
    for stage, rows in (("export", 2), ("preferred", 3), ("continued", 3)):
        assert result_of(run, stage)["reload"]["compared"]
        exported = run / stage / "huggingface"
        assert json.loads((exported / "config.json").read_text())["vocab_size"] == known + rows
        assert Tokenizer.load(exported).vocab_size == known + rows
    # Against the base as it was when it got the rows, over the same vocabulary.
    figures = result_of(run, "beside")["data"]
    assert figures["gain"]["low"] > 0
    assert result_of(run, "measured")["preferences"]["pairs"] > 0
    # What is written is a new token, which nobody is shown.
    shown = generate(
        run / "export" / "huggingface", "What is 7 and 7?", LIKELIEST, max_new_tokens=12
    )
    assert "It is" in shown
    assert not any(name in shown for name in TOKENS)


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("family", FAMILIES)
def test_families_call_their_tables_otherwise(tmp_path, family, method):
    config, lora, tables = FAMILIES[family]
    path = write(tmp_path, method="full" if method == "full" else lora, family=config)
    begin, _, _ = path.read_text().partition("  again:")
    path.write_text(
        begin + "  export: {kind: export, needs: sft}\nlaunch: {processes_per_node: 1}\n"
    )
    loaded = check_inputs(load_recipe(path, ["sft.training.max_steps=30"]))
    run = tmp_path / "runs" / "tokens"
    finish(loaded.recipe, run, "sft", "export")
    assert result_of(run, "export")["reload"]["compared"]
    known = Tokenizer.load(tmp_path / "base").vocab_size
    exported = load_file(run / "export" / "huggingface" / "model.safetensors")
    for name in set(tables) & set(exported):
        assert len(exported[name]) == known + 2
        assert not torch.equal(exported[name][known], exported[name][known + 1])
    assert set(tables) - set(exported) <= {"lm_head.weight"}, "tied"
