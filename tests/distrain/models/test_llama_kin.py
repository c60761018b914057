"""Folders made by transformers that the own Llama reads: its logits are those of transformers."""

import json

import pytest
import torch
from safetensors.torch import load_file

from distrain.config.huggingface import load_config
from distrain.config.models import LlamaConfig, TransformersConfig
from distrain.errors import PreflightError
from distrain.models import build_model
from distrain.models.huggingface import load_huggingface, open_huggingface, write_huggingface
from distrain.models.origin import SpecialTokens
from tests.distrain.models.layouts import layout_of

VOCAB_SIZE = 89
SIZES: dict[str, object] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 80,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,  # large, so that differences between the two codes would show
}
# Of the six waves of a head of 12, two stay, one is mixed and three are slowed.
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 300.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
FOLDERS: dict[str, tuple[str, dict[str, object]]] = {
    "llama3.1": ("llama", {"rope_parameters": LLAMA3}),
    "llama3.2 tied": ("llama", {"rope_parameters": LLAMA3, "tie_word_embeddings": True}),
    "own head size": ("llama", {"head_dim": 20}),
    "mistral": ("mistral", {"sliding_window": None}),
    "mistral, head size": ("mistral", {"sliding_window": None, "head_dim": 8}),
}


@pytest.fixture(scope="module")
def transformers():
    return pytest.importorskip("transformers")


def made(transformers, folder, name):
    """Write a random folder, its norms moved away from 1, and return its model."""
    model_type, changes = FOLDERS[name]
    config = transformers.AutoConfig.for_model(model_type, **SIZES | changes)
    torch.manual_seed(1)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    for key, parameter in model.named_parameters():
        if "norm" in key:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    model.save_pretrained(folder)
    return model


def loaded(folder):
    config, vocab_size, state = load_huggingface(folder)
    model = build_model(config, vocab_size)
    model.load_state_dict(state, strict=False)
    model.tie_weights()
    return model.eval()


@pytest.mark.parametrize("name", FOLDERS)
def test_logits_are_those_of_transformers(transformers, tmp_path, name):
    theirs, ours = made(transformers, tmp_path, name), loaded(tmp_path)
    ids = torch.randint(VOCAB_SIZE, (2, 200), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found, expected = ours(ids), theirs(ids).logits
    assert expected.std() > 0.5
    assert torch.equal(found, expected)
    config, vocab_size = load_config(tmp_path)
    assert config.num_parameters(vocab_size) == sum(p.numel() for p in theirs.parameters())


def test_positions_count_from_each_document(transformers, tmp_path):
    made(transformers, tmp_path, "llama3.1")
    model = loaded(tmp_path)
    ids = torch.randint(VOCAB_SIZE, (1, 150), generator=torch.Generator().manual_seed(0))
    positions = torch.cat([torch.arange(70), torch.arange(80)]).unsqueeze(0)
    layout = layout_of(torch.tensor([[0] * 70 + [1] * 80]), positions)
    with torch.no_grad():
        torch.testing.assert_close(
            model(ids, documents=layout)[:, 70:], model(ids[:, 70:]), rtol=0, atol=1e-5
        )


@pytest.mark.parametrize("number", ["factor", "low_freq_factor", "high_freq_factor"])
def test_each_number_of_the_scaling_counts(transformers, tmp_path, number):
    """The control of the comparison above: it would see a number that is ignored."""
    theirs = made(transformers, tmp_path, "llama3.1")
    path = tmp_path / "config.json"
    fields = json.loads(path.read_text())
    fields["rope_parameters"][number] *= 1.5
    path.write_text(json.dumps(fields))
    ids = torch.arange(200).unsqueeze(0) % VOCAB_SIZE
    with torch.no_grad():
        assert (loaded(tmp_path)(ids) - theirs(ids).logits).abs().max() > 1e-2


def test_the_older_form_of_the_scaling_is_read(transformers, tmp_path):
    made(transformers, tmp_path, "llama3.1")
    path = tmp_path / "config.json"
    newer = load_config(tmp_path)
    fields = json.loads(path.read_text())
    rope = fields.pop("rope_parameters")
    fields["rope_theta"] = rope.pop("rope_theta")
    path.write_text(json.dumps(fields | {"rope_scaling": rope}))
    assert load_config(tmp_path) == newer
    del rope["factor"]
    path.write_text(json.dumps(fields | {"rope_scaling": rope}))
    with pytest.raises(PreflightError, match="found no factor beside rope_type llama3"):
        load_config(tmp_path)


@pytest.mark.parametrize("name", ["mistral", "llama3.2 tied", "own head size"])
def test_a_folder_is_written_again_as_what_it_was(transformers, tmp_path, name):
    source, copy = tmp_path / "source", tmp_path / "copy"
    theirs = made(transformers, source, name)
    own = open_huggingface(source)
    copy.mkdir()
    write_huggingface(own.weights, own.config, own.vocab_size, copy, SpecialTokens(), own.origin)
    assert json.loads((copy / "config.json").read_text()) == dict(own.origin.config)
    again = transformers.AutoModelForCausalLM.from_pretrained(copy)
    assert type(again) is type(theirs)
    for key, tensor in load_file(copy / "model.safetensors").items():
        assert torch.equal(tensor, theirs.state_dict()[key])


def test_a_model_made_here_is_written_so_that_transformers_computes_the_same(
    transformers, tmp_path
):
    made(transformers, tmp_path / "source", "llama3.1")
    own = open_huggingface(tmp_path / "source")
    config, vocab_size = own.config, own.vocab_size
    (tmp_path / "copy").mkdir()
    write_huggingface(own.weights, config, vocab_size, tmp_path / "copy", SpecialTokens())
    assert load_config(tmp_path / "copy") == (config, vocab_size)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "copy").eval()
    ids = torch.arange(200).unsqueeze(0) % VOCAB_SIZE
    with torch.no_grad():
        assert torch.equal(theirs(ids).logits, loaded(tmp_path / "source")(ids))


@pytest.mark.parametrize(
    ("model_type", "changes"),
    [
        ("mistral", {"sliding_window": 4096}),
        ("mistral", {}),  # a window of 4096, which transformers takes without a word
        ("llama", {"rope_scaling": {"type": "linear", "factor": 2}}),
        ("llama", {"attention_bias": True}),
        ("llama", {"hidden_act": "gelu"}),
    ],
)
def test_what_it_would_compute_otherwise_is_left_to_transformers(tmp_path, model_type, changes):
    fields = SIZES | {"model_type": model_type} | changes
    (tmp_path / "config.json").write_text(json.dumps(fields))
    assert isinstance(load_config(tmp_path)[0], TransformersConfig)
    assert LlamaConfig.refusal(fields) is not None


def test_a_head_that_cannot_be_rotated_is_refused(tmp_path):
    fields = SIZES | {"model_type": "llama", "head_dim": 7}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    with pytest.raises(PreflightError, match="head_dim 7 is odd"):
        load_config(tmp_path)
