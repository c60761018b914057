"""What every model family promises, and that a family which came later is as good as the first."""

import json

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from distrain.config.huggingface import load_config
from distrain.config.models import DecoderConfig, LlamaConfig, family_of
from distrain.errors import PreflightError
from distrain.models import build_model
from distrain.models.huggingface import load_huggingface, save_huggingface
from distrain.models.init import initialize
from distrain.models.origin import SpecialTokens
from tests.distrain.models.layouts import layout_of
from tests.distrain.models.toy_family import ToyConfig, register, unregister

VOCAB_SIZE = 61
CONFIGS: list[DecoderConfig] = [
    LlamaConfig(hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=40),
    LlamaConfig(hidden_size=24, num_key_value_heads=1, tie_word_embeddings=True),
    ToyConfig(max_position_embeddings=64),
    ToyConfig(depth=3, heads=2, head_size=7, inner=5, tie_word_embeddings=True),
]
every_config = pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.name)


@pytest.fixture(autouse=True)
def toy():
    register()
    yield
    unregister()


def model_of(config, dtype=torch.float64):
    model = build_model(config, VOCAB_SIZE)
    initialize(model, seed=3)
    return model.to(dtype)


@every_config
def test_the_half_without_torch_counts_what_the_module_has(config):
    model = model_of(config)
    assert config.num_parameters(VOCAB_SIZE) == sum(p.numel() for p in model.parameters())
    ids = torch.arange(2 * 16).view(2, 16)
    # Unfused attention, because torch does not count the fused one of the CPU.
    with (
        FlopCounterMode(display=False) as counter,
        torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH),
    ):
        model(ids).sum().backward()
    found = counter.get_total_flops() / ids.numel()
    assert found == pytest.approx(config.flops_per_token(VOCAB_SIZE, 16), rel=1e-9)


@every_config
def test_adaptable_layers_are_the_linear_ones_but_the_head(config):
    """``validate`` reads the list, for it has no torch; the model itself is the truth."""
    model = model_of(config)
    linear = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    last_parts = {name.rpartition(".")[2] for name in linear - {model.OUTPUT_LAYER}}
    assert config.adaptable_layers == tuple(sorted(last_parts))
    assert model.OUTPUT_LAYER in linear


@every_config
def test_blocks_and_layout_are_the_seams_engines_and_batches_use(config):
    model = model_of(config).eval()
    assert sum(isinstance(module, model.BLOCKS) for module in model.modules()) > 1
    ids = torch.randint(VOCAB_SIZE, (1, 20), generator=torch.Generator().manual_seed(0))
    other = ids.clone()
    other[0, :8] = (other[0, :8] + 1) % VOCAB_SIZE
    positions = torch.cat([torch.arange(8), torch.arange(12)]).unsqueeze(0)
    layout = layout_of(torch.tensor([[0] * 8 + [1] * 12]), positions)
    before, after = model(ids, documents=layout), model(other, documents=layout)
    assert torch.equal(after[:, 8:], before[:, 8:])
    assert not torch.equal(model(other)[:, 8:], model(ids)[:, 8:])
    # Positions count from the start of the document, and the model uses them.
    torch.testing.assert_close(before[:, 8:], model(ids[:, 8:]), rtol=0, atol=1e-12)


@every_config
def test_a_folder_gives_back_what_was_written(config, tmp_path):
    model = model_of(config, torch.float32)
    folder = tmp_path / "model"
    save_huggingface(model.state_dict(), config, VOCAB_SIZE, folder, SpecialTokens(None, 0, 1))
    fields = json.loads((folder / "config.json").read_text())
    assert family_of(fields) in {type(config)}
    read, vocab_size, state = load_huggingface(folder)
    assert isinstance(read, DecoderConfig)
    written = {"dropout": config.dropout, "num_key_value_heads": None}
    assert read.model_copy(update=written) == config.model_copy(update=written)
    assert vocab_size == VOCAB_SIZE
    expected = dict(model.named_parameters())
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], parameter) for name, parameter in expected.items())


def test_names_differ_in_the_folder_of_a_family_that_names_otherwise(tmp_path):
    from safetensors.torch import load_file

    config = CONFIGS[2]
    model = model_of(config, torch.float32)
    save_huggingface(model.state_dict(), config, VOCAB_SIZE, tmp_path / "m", SpecialTokens())
    stored = load_file(tmp_path / "m" / "model.safetensors")
    assert "transformer.h.1.attn.qkv.bias" in stored
    assert "lm_head.weight" in stored
    assert not stored.keys() & dict(model.named_parameters()).keys()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "tooy"}, "families, such as llama, mistral, toy, toy2, deepseek_v3"),
        ({"act": "relu"}, "act 'relu'; expected act 'gelu'. Choose a toy with GELU"),
        ({"width": None}, "found no width; expected the sizes of a model of type toy"),
        ({"depth": "many"}, "depth: Input should be a valid integer"),
    ],
)
def test_what_a_family_cannot_read_is_refused_in_its_words(tmp_path, change, message):
    fields = CONFIGS[2].to_json() | {"vocab_size": VOCAB_SIZE} | change
    fields = {key: value for key, value in fields.items() if value is not None}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    with pytest.raises(PreflightError) as refused:
        load_config(tmp_path)
    assert message in str(refused.value)
