"""Fine-tuning of every parameter (``lora: null``), and what is built on it."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from tests.tiny import PREPARE, distrain, events, exact_records, tensor_digests, write_corpus

pytestmark = pytest.mark.models

RECIPE = (
    """\
name: full
seed: 7
defaults:
  training: {{sequence_length: 64, global_batch_size: 8, micro_batch_size: 2}}
  optimizer: {{learning_rate: 3e-3}}
  checkpoint: {{save_steps: 2}}
  eval: {{max_batches: 2}}
stages:
"""
    + PREPARE
    + """\
    tokenizer: {{vocab_size: 512}}
    pairs: {{kind: docstrings}}
  pretrain:
    kind: pretrain
    needs: prepare
    model: {model}
    training: {{max_steps: 4}}
  sft:
    kind: sft
    needs: pretrain
    training: {{max_steps: 6}}
    lora: null
    data: {{truncation: cut}}
  adapted: {{kind: sft, needs: sft, training: {{max_steps: 2}}, data: {{truncation: cut}}}}
  evaluate: {{kind: evaluate, needs: sft}}
  export: {{kind: export, needs: sft, reload: false}}
  export2: {{kind: export, needs: adapted, reload: false}}
launch: {{processes_per_node: {processes}}}
"""
)
MODELS = {
    "own": "{hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 2, intermediate_size: 64}",
    "qwen3": (
        "{model_type: qwen3, config: {hidden_size: 32, num_hidden_layers: 2, head_dim: 8, "
        "num_attention_heads: 4, num_key_value_heads: 2, intermediate_size: 64}}"
    ),
}


@pytest.fixture(scope="module", params=MODELS)
def finished(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    path = folder / "full.yaml"
    corpus = write_corpus(folder / "corpus")
    path.write_text(RECIPE.format(corpus=corpus, model=MODELS[request.param], processes=1))
    done = distrain(folder / "runs", "run", str(path))
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "runs" / "full"


def result_of(run, stage):
    return json.loads((run / stage / "result.json").read_text())


def test_every_matrix_moves_and_answers_get_likelier(finished):
    result = result_of(finished, "sft")
    assert result["eval_loss"] < result["eval_loss_base"]
    exported = load_file(finished / "export/huggingface/model.safetensors")
    assert result["parameters"] == sum(tensor.numel() for tensor in exported.values())
    base = load_file(finished / "export2/huggingface/base/model.safetensors")
    # What the adapters begin with is what was exported of the stage before them.
    assert exported.keys() == base.keys()
    assert all(torch.equal(base[name], exported[name]) for name in exported)
    measured = result_of(finished, "evaluate")
    assert measured["measured"] == {"documents": "sft", "answers": "sft"}
    answers = measured["answers"]
    assert answers["loss"] < answers["loss_shuffled_prompts"] + 1
    assert answers["gain"]["value"] == pytest.approx(answers["loss_base"] - answers["loss"])
    assert answers["gain"]["low"] > 0


def test_it_goes_on_from_a_checkpoint_bit_for_bit(finished, tmp_path):
    run = tmp_path / "runs" / "full"
    shutil.copytree(finished, run, symlinks=True)
    shutil.rmtree(run / "sft/checkpoints/step_000006")
    for name in ("result.json", "state.json"):
        (run / "sft" / name).unlink()
    again = distrain(run.parent, "resume", "full")
    assert again.returncode == 0, again.stdout + again.stderr
    assert [event["step"] for event in events(run, "resumed")] == [4]
    assert exact_records(run, "sft") == exact_records(finished, "sft")
    assert tensor_digests(run, "sft") == tensor_digests(finished, "sft")
