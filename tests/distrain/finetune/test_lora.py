from itertools import pairwise

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from distrain.config.lora import LoraConfig
from distrain.config.models import LlamaConfig
from distrain.errors import RecipeError
from distrain.finetune.adapter_files import save_adapter
from distrain.finetune.lora import initialize_lora, inject_lora, is_adapter, plain_name
from distrain.finetune.merged import MergedWeights, adapted_layers, merge
from distrain.models.init import initialize
from distrain.models.llama import Llama
from distrain.models.weights.source import TensorWeights
from distrain.parallel.global_tensor import from_flat_range, write_parts
from tests.distrain.models.layouts import layout_of
from tests.distrain.models.toy_family import Toy, ToyConfig
from tests.ranks import run_ranks

VOCAB_SIZE = 61
MODEL = LlamaConfig(
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=44,
    max_position_embeddings=48,
    initializer_range=0.2,
)
TIED = MODEL.model_copy(update={"tie_word_embeddings": True})
LORA = LoraConfig(r=4, alpha=12)
IDS = torch.randint(VOCAB_SIZE, (2, 48), generator=torch.Generator().manual_seed(0))


def base_model(config=MODEL):
    model = Llama(config, VOCAB_SIZE)
    initialize(model, seed=1)
    return model.eval()


def trained_adapter(model):
    """Give the adapters values, B included."""
    generator = torch.Generator().manual_seed(2)
    for name, parameter in model.named_parameters():
        if is_adapter(plain_name(name)):
            torch.nn.init.normal_(parameter, std=0.2, generator=generator)
    return {
        plain_name(name): parameter.detach()
        for name, parameter in model.named_parameters()
        if is_adapter(plain_name(name))
    }


def with_adapter(config=MODEL, lora=LORA, seed=7):
    return inject_lora(base_model(config), lora, seed).eval()


def test_fresh_adapter_changes_nothing_and_only_it_is_trainable():
    model = with_adapter()
    documents = (torch.arange(48) // 20).expand(2, 48)
    expected = base_model()(IDS, documents=layout_of(documents))
    assert torch.equal(model(IDS, documents=layout_of(documents)), expected)
    trainable = {plain_name(name) for name, p in model.named_parameters() if p.requires_grad}
    assert trainable == {name for name in map(plain_name, model.state_dict()) if is_adapter(name)}
    assert len(trainable) == 2 * 7 * MODEL.num_hidden_layers
    assert not any("lm_head" in name for name in trainable)


@pytest.mark.parametrize("config", [MODEL, TIED])
def test_frozen_weights_keep_their_pretraining_names(config):
    model = with_adapter(config)
    frozen = {plain_name(n): p for n, p in model.named_parameters() if not p.requires_grad}
    expected = dict(base_model(config).named_parameters())
    assert list(frozen) == list(expected)
    assert all(torch.equal(frozen[name], expected[name]) for name in expected)


def test_plain_name_also_reads_the_names_of_a_peft_model():
    layer = "model.layers.0.mlp.up_proj"
    assert plain_name(f"base_model.model.{layer}.base_layer.weight") == f"{layer}.weight"
    assert plain_name(f"base_model.model.{layer}.lora_A.default.weight") == f"{layer}.lora_A.weight"
    assert plain_name("model.norm.weight") == "model.norm.weight"


def test_starting_values_depend_on_seed_and_name_alone():
    torch.manual_seed(0)
    first = {plain_name(n): p for n, p in with_adapter().named_parameters()}
    torch.manual_seed(1)
    again = {plain_name(n): p for n, p in with_adapter().named_parameters()}
    other = {plain_name(n): p for n, p in with_adapter(seed=8).named_parameters()}
    name = "model.layers.1.mlp.up_proj.lora_A.weight"
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first[name], other[name])
    assert not torch.equal(first[name], first[name.replace("up", "gate")])
    assert float(first[name].detach().abs().max()) <= 32**-0.5


@pytest.mark.parametrize("config", [MODEL, TIED])
def test_merged_model_computes_what_the_adapted_one_does(config):
    model = with_adapter(config)
    adapter = trained_adapter(model)
    base = dict(base_model(config).named_parameters())
    plain = base_model(config)
    plain.load_state_dict(merge(base, adapter, LORA), strict=False)
    with torch.no_grad():
        merged, adapted, unchanged = plain(IDS), model(IDS), base_model(config)(IDS)
    torch.testing.assert_close(merged, adapted, rtol=0, atol=1e-4)
    assert float((adapted - unchanged).abs().max()) > 0.1


WIDE = "model.layers.0.mlp.up_proj"


def wide_pair():
    """A weight that is merged in several pieces, and its adapter of 19 terms."""
    generator = torch.Generator().manual_seed(3)
    shapes = {"": (700, 520), "A": (19, 520), "B": (700, 19)}
    weight, *matrices = (torch.randn(shape, generator=generator) for shape in shapes.values())
    adapter = {f"{WIDE}.lora_{name}.weight": m for name, m in zip("AB", matrices, strict=True)}
    return weight, adapter


def merged_in_parts(weight, adapter, lora, bounds):
    """Read row-major ranges of a merged weight, each alone; returns the whole again."""
    source = MergedWeights(TensorWeights({f"{WIDE}.weight": weight}), adapter, lora)
    parts = [torch.empty(stop - start) for start, stop in pairwise(bounds)]
    for start, part in zip(bounds, parts, strict=False):
        write_parts({f"{WIDE}.weight": from_flat_range(weight.shape, start, part)}, source, str)
    return torch.cat(parts).view(weight.shape)


def test_merged_weights_have_the_same_bits_in_whatever_parts_and_with_any_threads():
    weight, adapter = wide_pair()
    lora = LORA.model_copy(update={"r": 19})
    expected = merge({f"{WIDE}.weight": weight}, adapter, lora)[f"{WIDE}.weight"]
    size = weight.numel()
    for bounds in ((0, size), (0, 7, 521, 100_003, size), range(0, size + 1, size // 4)):
        assert torch.equal(merged_in_parts(weight, adapter, lora, bounds), expected)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert torch.equal(merged_in_parts(weight, adapter, lora, (0, size)), expected)
    finally:
        torch.set_num_threads(threads)
    matrix_a, matrix_b = adapter.values()
    torch.testing.assert_close(expected, weight + 12 / 19 * matrix_b @ matrix_a)
    other = LORA.model_copy(update={"r": 18})
    assert not torch.equal(merged_in_parts(weight, adapter, other, (0, size)), expected)


def test_an_adapter_of_another_model_is_refused_before_anything_is_read():
    weight, adapter = wide_pair()
    other = {f"{WIDE}.weight": weight.T}
    with pytest.raises(ValueError, match=r"is of shape \(520, 700\) in the base model"):
        merge(other, adapter, LORA)
    with pytest.raises(ValueError, match="is missing in the base model"):
        merge({}, adapter, LORA)


def test_dropout_acts_on_adapters_in_training_only():
    model = with_adapter(lora=LORA.model_copy(update={"dropout": 0.5}))
    trained_adapter(model)
    assert torch.equal(model(IDS), model(IDS))
    model.train()
    assert not torch.equal(model(IDS), model(IDS))


def test_float64_model_gets_float64_adapters():
    model = inject_lora(base_model().double(), LORA, seed=0)
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    assert model(IDS).dtype == torch.float64


@pytest.mark.parametrize(
    ("target", "remedy"),
    [("q_prj", "Write q_proj."), ("lm_head", "choose from the list."), ("embed_tokens", "list.")],
)
def test_layers_that_cannot_be_adapted_are_refused(target, remedy):
    lora = LORA.model_copy(update={"target_modules": (target,)})
    with pytest.raises(RecipeError) as refused:
        inject_lora(base_model(), lora, seed=0)
    assert f"found '{target}'; expected some of down_proj, gate_proj, k_proj" in str(refused.value)
    assert remedy in refused.value.remedy


def test_adapter_of_another_model_is_refused():
    adapter = trained_adapter(with_adapter())
    other = Llama(MODEL.model_copy(update={"intermediate_size": 40}), VOCAB_SIZE)
    with pytest.raises(ValueError, match=r"gate_proj.weight is of shape \(40, 32\)"):
        merge(dict(other.named_parameters()), adapter, LORA)


def test_half_an_adapter_is_refused():
    adapter = trained_adapter(with_adapter())
    adapter.popitem()
    with pytest.raises(ValueError, match="expected of each layer lora_A, lora_B"):
        adapted_layers(adapter, LORA)
    with pytest.raises(ValueError, match="no adapter"):
        adapted_layers({}, LORA)


def test_sharded_after_meta_construction_equals_single_process(tmp_path):
    run_ranks(tmp_path, 2, _compare_sharded)


def _compare_sharded():
    with torch.device("meta"):
        model = Llama(TIED, VOCAB_SIZE)
    inject_lora(model, LORA, seed=7)
    mesh = init_device_mesh("cpu", (2,))
    for block in model.model.layers:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    model.to_empty(device="cpu")
    initialize(model, seed=1)
    initialize_lora(model, seed=7)
    expected = dict(with_adapter(TIED).named_parameters())
    found = dict(model.named_parameters())
    assert list(found) == list(expected)
    for name, parameter in found.items():
        assert isinstance(parameter, DTensor)
        if is_adapter(plain_name(name)):
            assert parameter.requires_grad
            assert torch.equal(parameter.full_tensor(), expected[name]), name
    model(IDS).square().mean().backward()
    assert all((p.grad is not None) == p.requires_grad for p in model.parameters())


def test_adapters_of_a_family_with_other_names_are_written_under_those_of_its_folder(tmp_path):
    config = ToyConfig()
    model = Toy(config, VOCAB_SIZE)
    initialize(model, seed=0)
    inject_lora(model, LORA, seed=7)
    state = {
        plain_name(name): torch.randn(parameter.shape)
        for name, parameter in model.named_parameters()
        if is_adapter(plain_name(name))
    }
    assert {layer.rpartition(".")[2] for layer in adapted_layers(state, LORA)} == set(
        config.adaptable_layers
    )
    base = {plain_name(name): value for name, value in model.named_parameters()}
    base = {name: value for name, value in base.items() if not is_adapter(name)}
    assert base.keys() == dict(Toy(config, VOCAB_SIZE).named_parameters()).keys()
    merged = merge(base, state, LORA)
    assert not torch.equal(merged["blocks.0.qkv.weight"], base["blocks.0.qkv.weight"])
    assert torch.equal(merged["blocks.0.qkv.bias"], base["blocks.0.qkv.bias"])
    save_adapter(state, LORA, Toy(config, VOCAB_SIZE), "base", tmp_path / "adapter")
    stored = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert "base_model.model.transformer.h.1.attn.qkv.lora_A.weight" in stored
    assert len(stored) == len(state)
