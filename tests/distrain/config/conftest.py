from typing import Any

import pytest

from distrain.config.reading.load import LoadedRecipe

TINY = """\
name: tiny
seed: 1
defaults:
  training: {sequence_length: 64, global_batch_size: 8, micro_batch_size: 4}
  optimizer: {learning_rate: 1e-3}
stages:
  prepare:
    kind: prepare
    data: {source: {kind: python_stdlib}, min_characters: 10}
    pairs: {kind: docstrings}
  pretrain:
    kind: pretrain
    needs: prepare
    model: {hidden_size: 64, num_attention_heads: 2, dropout: 0.1}
    training: {max_steps: 10}
  sft:
    kind: sft
    needs: pretrain
    training: {max_steps: 5}
    optimizer: {learning_rate: 2.0e-4}
  evaluate: {kind: evaluate, needs: sft}
launch: {processes_per_node: 2}
"""


@pytest.fixture
def recipe(tmp_path):
    """A small valid recipe with defaults and four stages."""
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


def stages_of(loaded: LoadedRecipe) -> Any:
    """Return the stages of a loaded recipe; a test knows the kind of each."""
    return loaded.recipe.stages
