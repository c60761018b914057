"""The folder that an export writes is looked at by transformers before it appears."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from distrain.config.models import LlamaConfig
from distrain.data.tokenizer.tokenizer import Tokenizer, train_tokenizer
from distrain.errors import TrainingError
from distrain.models import build_model
from distrain.models.init import initialize
from distrain.models.weights.source import TensorWeights
from distrain.stages import foreign_reader
from distrain.stages import reload as reloading
from distrain.stages.export import TrainedModel, export_huggingface
from distrain.stages.reload import compare_reloaded

MODEL = LlamaConfig(
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=48,
    max_position_embeddings=16,
    initializer_range=0.2,
)


@pytest.fixture(scope="module")
def tokenizer_json(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_text(train_tokenizer(["to be or not"] * 9, vocab_size=280, min_frequency=2))
    return path


@pytest.fixture(scope="module")
def trained(tokenizer_json):
    vocab_size = Tokenizer.load(tokenizer_json).vocab_size
    model = build_model(MODEL, vocab_size)
    initialize(model, seed=1)
    return TrainedModel(TensorWeights(dict(model.named_parameters())), MODEL, vocab_size)


def test_an_export_is_compared_before_it_appears(tmp_path, trained, tokenizer_json):
    found = export_huggingface(trained, tokenizer_json, tmp_path / "out", reload=True)
    assert found.compared
    assert found.loaded_as == "LlamaForCausalLM"
    assert found.largest_difference is not None
    assert found.largest_logit is not None
    assert found.largest_difference < 1e-4 < 0.1 < found.largest_logit
    assert found.to_json().keys() == {
        *("compared", "largest_difference", "largest_logit", "loaded_as", "seconds")
    }


@pytest.mark.models
def test_a_changed_weight_is_noticed(tmp_path, trained, tokenizer_json):
    folder = tmp_path / "out"
    export_huggingface(trained, tokenizer_json, folder)
    path = folder / "model.safetensors"
    tensors = load_file(path)
    name = "model.layers.1.mlp.up_proj.weight"
    tensors[name] = tensors[name].flip(0).contiguous()
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(TrainingError, match="LlamaForCausalLM with logits that differ by up to"):
        compare_reloaded(folder, trained.base, MODEL, trained.vocab_size)


@pytest.mark.parametrize("wrong", [0.02, float("nan")])
def test_other_logits_are_named_by_their_place(tmp_path, wrong):
    ours = torch.linspace(-9, 9, 24).view(2, 3, 4)
    answer = {"class": "X", "missing_keys": [], "unexpected_keys": [], "mismatched_keys": []}
    theirs = ours.clone()
    theirs[1, 0, 2] += 0.005  # within a thousandth of the largest
    difference, largest = reloading._compare(tmp_path, answer, theirs.view(-1), ours)
    assert (round(difference, 4), largest) == (0.005, 9.0)
    theirs[1, 2, 3] += wrong
    with pytest.raises(TrainingError, match=r"row 1, position 2, token 3; the largest logit is 9"):
        reloading._compare(tmp_path, answer, theirs.view(-1), ours)
    with pytest.raises(TrainingError, match=r"12 logits, where ours are \(2, 3, 4\)"):
        reloading._compare(tmp_path, answer, theirs.view(-1)[:12], ours)


@pytest.mark.models
def test_a_folder_that_lacks_a_weight_or_cannot_be_read_is_noticed(
    tmp_path, trained, tokenizer_json
):
    folder = tmp_path / "out"
    export_huggingface(trained, tokenizer_json, folder)
    path = folder / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.norm.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(TrainingError, match=r"1 missing keys: model\.norm\.weight"):
        compare_reloaded(folder, trained.base, MODEL, trained.vocab_size)
    path.write_bytes(b"nothing")
    with pytest.raises(TrainingError, match=r"transformers cannot load it: .*Safetensor"):
        compare_reloaded(folder, trained.base, MODEL, trained.vocab_size)


def test_a_difference_leaves_no_folder(tmp_path, trained, tokenizer_json, monkeypatch):
    def differs(*arguments):
        raise TrainingError(str(arguments[0]), "other logits", "the same", "Look.")

    monkeypatch.setattr("distrain.stages.export.compare_reloaded", differs)
    with pytest.raises(TrainingError):
        export_huggingface(trained, tokenizer_json, tmp_path / "out", reload=True)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_compared_is_said(tmp_path, trained, tokenizer_json, monkeypatch):
    folder = tmp_path / "out"
    assert export_huggingface(trained, tokenizer_json, folder).to_json() == {
        "compared": False,
        "reason": "export.reload is false",
    }
    monkeypatch.setattr(reloading, "available_bytes", lambda: 10**9)
    found = compare_reloaded(folder, trained.base, MODEL, trained.vocab_size)
    assert not found.compared
    assert "1.0 GB of memory are free" in str(found.reason)


def test_a_reader_that_is_killed_says_nothing_of_the_folder(
    tmp_path, trained, tokenizer_json, monkeypatch
):
    script = tmp_path / "killed.py"
    script.write_text("import os; os.kill(os.getpid(), 9)")
    monkeypatch.setattr(foreign_reader, "__file__", str(script))
    found = export_huggingface(trained, tokenizer_json, tmp_path / "out", reload=True)
    assert not found.compared
    assert "was killed" in str(found.reason)
    script.write_text("raise SystemExit(9)")
    with pytest.raises(TrainingError, match="cannot load it: exit code 9"):
        export_huggingface(trained, tokenizer_json, tmp_path / "out", reload=True)


@pytest.mark.models
def test_a_model_that_transformers_does_not_know_is_not_compared(tmp_path, trained, tokenizer_json):
    export_huggingface(trained, tokenizer_json, tmp_path / "out")
    path = tmp_path / "out" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": "own"}))
    found = compare_reloaded(tmp_path / "out", trained.base, MODEL, trained.vocab_size)
    assert found.reason == "the installed transformers knows no model_type 'own'"


def test_the_fixed_batch_goes_over_the_vocabulary():
    assert torch.equal(reloading.fixed_batch(5, 4), torch.tensor([[0, 4, 3, 2], [1, 0, 4, 3]]))
