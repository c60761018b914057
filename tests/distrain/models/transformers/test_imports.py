"""Only who runs a family of transformers imports it."""

import subprocess
import sys

CODE = """
import sys, torch
from distrain.config.models import LlamaConfig
from distrain.models import MODELS, build_model
from distrain.models.init import initialize
import distrain.stages.pretrain
assert "transformers" in MODELS
model = build_model(LlamaConfig(hidden_size=16, num_attention_heads=2, num_hidden_layers=1), 11)
initialize(model, 0)
ids = torch.zeros(1, 4, dtype=torch.long)
model(ids, target_ids=ids).sum().backward()
print(sorted({"transformers", "accelerate", "peft"} & sys.modules.keys()))
"""


def test_the_own_llama_imports_no_transformers():
    child = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert child.stdout.strip() == "[]"
