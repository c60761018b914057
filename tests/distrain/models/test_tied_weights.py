"""Folders whose tied weights are stored once, twice, or under the other name; and odd names."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from distrain.config.models import LlamaConfig
from distrain.errors import PreflightError
from distrain.models import build_model
from distrain.models.huggingface import load_huggingface, save_huggingface
from distrain.models.init import initialize
from distrain.models.origin import SpecialTokens

MODEL = LlamaConfig(
    hidden_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=24,
    tie_word_embeddings=True,
)
VOCAB_SIZE = 40
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@pytest.fixture
def folder(tmp_path):
    model = build_model(MODEL, VOCAB_SIZE)
    initialize(model, seed=3)
    save_huggingface(model.state_dict(), MODEL, VOCAB_SIZE, tmp_path / "m", SpecialTokens())
    return tmp_path / "m"


def stored(folder, change=None):
    """Return what the folder holds, after a change of it."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    if change is not None:
        change(tensors)
        save_file({name: tensor.clone() for name, tensor in tensors.items()}, path)
    return tensors


def test_a_tied_weight_is_stored_once_and_read_under_either_name(folder):
    tensors = stored(folder)
    assert HEAD not in tensors
    changes = [
        lambda found: found.update({HEAD: found[EMBEDDING]}),  # both
        lambda found: found.pop(EMBEDDING),  # only the output layer's
    ]
    for change in changes:
        stored(folder, change)
        _, _, state = load_huggingface(folder)
        assert HEAD not in state
        assert state.keys() == tensors.keys()
        assert all(state[name].equal(tensors[name]) for name in tensors)


def test_a_tied_weight_with_two_values_is_refused_by_name(folder):
    def change(tensors):
        tensors[HEAD] = tensors[EMBEDDING].clone()
        tensors[HEAD][-1, -1] += 1

    stored(folder, change)
    with pytest.raises(PreflightError) as refused:
        load_huggingface(folder)
    assert f"{HEAD} with other values than {EMBEDDING}" in str(refused.value)
    assert "tie_word_embeddings" in str(refused.value)


def test_a_missing_weight_is_named_with_what_may_be_meant_for_it(folder):
    right, wrong = "model.layers.0.mlp.up_proj.weight", "model.layer.0.mlp.up_proj.weight"

    def change(tensors):
        tensors[wrong] = tensors.pop(right)
        tensors["vision.patch"] = torch.zeros(3)

    stored(folder, change)
    with pytest.raises(PreflightError) as refused:
        load_huggingface(folder)
    assert f"1 parameters missing ['{right}' (like '{wrong}')]" in str(refused.value)
    assert f"2 not of the model ['{wrong}' (like '{right}'), 'vision.patch']" in str(refused.value)
