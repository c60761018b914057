"""Fine-tuning a user's own Hugging Face folder on a user's own JSON lines."""

import json

import pytest
import torch
from safetensors.torch import load_file

from distrain.models.weights.writer import write_tensors
from tests.tiny import distrain, write_recipe

OWN = """\
name: own
stages:
  sft:
    kind: sft
    model: {{from_pretrained: {model}}}
    data: {{path: {pairs}, validation_fraction: 0.2}}
    training: {{sequence_length: 64, global_batch_size: 4, micro_batch_size: 4, num_epochs: 2}}
    optimizer: {{learning_rate: 1e-2}}
    lora: {{r: 4}}
    eval: {{eval_steps: 5}}
  export: {{kind: export, needs: sft, reload: false}}
"""


def store_as_bf16(folder):
    path = folder / "model.safetensors"
    halved = {name: tensor.to(torch.bfloat16) for name, tensor in load_file(path).items()}
    write_tensors(path, halved)


@pytest.mark.models
def test_a_users_model_is_tuned_exported_and_asked(tmp_path):
    runs = tmp_path / "runs"
    base = write_recipe(tmp_path, processes=1, steps=4)
    made = distrain(runs, "run", str(base), "stages.sft=skip", "stages.evaluate=skip",
                    "export.needs=pretrain")  # fmt: skip
    assert made.returncode == 0, made.stdout + made.stderr
    pairs = tmp_path / "pairs.jsonl"
    lines = [{"prompt": f"say {n}", "answer": f"the number is {n}"} for n in range(30)]
    pairs.write_text("".join(json.dumps(line) + "\n" for line in lines))
    recipe = tmp_path / "own.yaml"
    model = runs / "tiny" / "export" / "huggingface"
    store_as_bf16(model)
    recipe.write_text(OWN.format(model=model, pairs=pairs))
    tuned = distrain(runs, "run", str(recipe))
    assert tuned.returncode == 0, tuned.stdout + tuned.stderr
    result = json.loads((runs / "own" / "sft" / "result.json").read_text())
    assert result["eval_loss"] < result["eval_loss_base"]
    exported = load_file(runs / "own" / "export" / "huggingface" / "model.safetensors")
    assert {tensor.dtype for tensor in exported.values()} == {torch.bfloat16}
    asked = distrain(runs, "generate", "own", "say 3", "--max-new-tokens", "4", "--chat")
    assert asked.returncode == 0, asked.stdout + asked.stderr
