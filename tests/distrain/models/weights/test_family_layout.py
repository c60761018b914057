"""Each family is read and written with the bytes and names of transformers itself."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from distrain.models.weights.conversion import ConvertedWeights
from distrain.models.weights.family_layout import conversions_from_folder, conversions_to_folder
from distrain.models.weights.folder import SafetensorsFolder
from distrain.models.weights.source import TensorWeights, read_all
from distrain.models.weights.writer import write_weights

SMALL = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 40,
    "max_position_embeddings": 32,
}
EXPERTS = {"num_experts": 12, "num_experts_per_tok": 2, "moe_intermediate_size": 10}
LATENT = {
    "q_lora_rank": 6,
    "kv_lora_rank": 8,
    "n_routed_experts": 12,
    "n_group": 2,
    "topk_group": 1,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "first_k_dense_replace": 1,
}
FAMILIES = {
    "mixtral": {"num_local_experts": 12},
    "qwen3_moe": EXPERTS,
    "qwen2_moe": EXPERTS | {"shared_expert_intermediate_size": 10},
    "olmoe": EXPERTS,
    "deepseek_v3": LATENT | {"num_experts_per_tok": 2, "moe_intermediate_size": 10},
    "gpt_neox": {},
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32},
    "gpt_oss": {"num_local_experts": 4, "head_dim": 8},
    "phi3": {"pad_token_id": 0},
    "gemma2": {"head_dim": 8},
    "llama": {},
}
REPRESENTATIVES = ("mixtral", "gpt_neox")
CASES = [
    pytest.param(name, marks=() if name in REPRESENTATIVES else pytest.mark.models)
    for name in FAMILIES
]


def causal_module(name):
    transformers = pytest.importorskip("transformers")
    config = transformers.AutoConfig.for_model(name, **(SMALL | FAMILIES[name]))
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_config(config)


def on_meta(module):
    with torch.device("meta"):
        return type(module)(module.config)


def perturbed(module):
    """Give every tensor values of its own: no two experts alike, no bias zero."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_()
        for name, buffer in module.named_buffers():
            if name in module.state_dict():
                buffer.normal_()
    return module


def tensors_of(folder):
    files = sorted(folder.glob("*.safetensors"))
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


@pytest.mark.parametrize("name", CASES)
def test_a_family_is_read_and_written_as_transformers_does(tmp_path, name):
    module = perturbed(causal_module(name))
    module.save_pretrained(tmp_path / "theirs")
    expected = dict(module.state_dict())
    for key in module.all_tied_weights_keys:
        expected.pop(key, None)
    folder = SafetensorsFolder(tmp_path / "theirs")
    empty = on_meta(module)

    read = ConvertedWeights(folder, conversions_from_folder(empty, folder.forms))
    assert read.forms.keys() == expected.keys()
    for key, tensor in expected.items():
        assert read.forms[key].shape == tensor.shape, key
        assert read.read(key).equal(tensor), key
        assert read.read(key, (slice(1, 3),)).equal(tensor[1:3]), key

    written = ConvertedWeights(TensorWeights(expected), conversions_to_folder(empty, expected))
    (tmp_path / "ours").mkdir()
    write_weights(tmp_path / "ours", written, max_file_bytes=3000)
    ours, theirs = tensors_of(tmp_path / "ours"), tensors_of(tmp_path / "theirs")
    assert ours.keys() == theirs.keys()
    for key, tensor in theirs.items():
        assert (ours[key].dtype, ours[key].shape) == (tensor.dtype, tensor.shape)
        assert ours[key].contiguous().view(torch.uint8).equal(tensor.contiguous().view(torch.uint8))


def test_stacked_experts_differ_from_their_files_and_are_read_under_either_form(tmp_path):
    module = perturbed(causal_module("mixtral"))
    module.save_pretrained(tmp_path)
    stored, expected = tensors_of(tmp_path), module.state_dict()
    assert stored.keys() != expected.keys()  # else nothing is shown above
    (tmp_path / "model.safetensors").unlink()
    save_file(
        {key: value.clone() for key, value in expected.items()}, tmp_path / "model.safetensors"
    )
    folder = SafetensorsFolder(tmp_path)
    read = read_all(
        ConvertedWeights(folder, conversions_from_folder(on_meta(module), folder.forms))
    )
    assert read.keys() == expected.keys()
    assert all(read[key].equal(value) for key, value in expected.items())


def test_a_missing_expert_and_a_tensor_that_nobody_knows_are_left_to_be_refused(tmp_path):
    module = causal_module("mixtral")
    module.save_pretrained(tmp_path)
    tensors = tensors_of(tmp_path)
    lost = next(key for key in tensors if ".experts.11.w2" in key)
    shape = tensors.pop(lost).shape
    source = TensorWeights(tensors | {"model.vision.weight": torch.zeros(2)})
    read = ConvertedWeights(source, conversions_from_folder(on_meta(module), source.forms))
    assert "model.vision.weight" in read.forms
    stacked = next(key for key in read.forms if key.endswith("experts.down_proj"))
    assert read.forms[stacked].shape == (11, *shape)
