import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from distrain.config.models import LlamaConfig
from distrain.models.init import initialize
from distrain.models.llama import Llama
from tests.distrain.models.layouts import layout_of
from tests.ranks import run_ranks

VOCAB_SIZE = 101  # odd, so that ranks hold unequal shards
CONFIG = LlamaConfig(
    hidden_size=56, num_hidden_layers=3, num_attention_heads=4, intermediate_size=90
)
TIED = CONFIG.model_copy(update={"tie_word_embeddings": True})


def initialized(config=CONFIG, seed=0):
    model = Llama(config, VOCAB_SIZE)
    initialize(model, seed)
    return model


def test_values_do_not_depend_on_construction():
    torch.manual_seed(1)
    first = initialized().state_dict()
    torch.manual_seed(2)
    with torch.device("meta"):
        model = Llama(CONFIG, VOCAB_SIZE)
    model.to_empty(device="cpu")
    initialize(model, 0)
    for name, value in model.state_dict().items():
        assert torch.equal(value, first[name]), name


def test_a_further_layer_leaves_the_values_of_the_others():
    deeper = initialized(CONFIG.model_copy(update={"num_hidden_layers": 5})).state_dict()
    for name, value in initialized().state_dict().items():
        if not name.endswith(("o_proj.weight", "down_proj.weight")):  # scaled by depth
            assert torch.equal(value, deeper[name]), name


def test_seed_and_name_decide():
    first, other_seed = initialized().state_dict(), initialized(seed=1).state_dict()
    query, key = "model.layers.0.self_attn.q_proj.weight", "model.layers.0.self_attn.k_proj.weight"
    assert not torch.equal(first[query], other_seed[query])
    assert not torch.equal(first[query], first[key])


def test_spread_is_the_recipes_and_smaller_where_layers_add_up():
    state = initialized().state_dict()
    expected = {"up_proj": 0.02, "o_proj": 0.02 / 6**0.5, "embed_tokens": 0.02, "lm_head": 0.02}
    for part, std in expected.items():
        values = torch.cat([value.flatten() for name, value in state.items() if part in name])
        assert float(values.std()) == pytest.approx(std, rel=0.05), part
    assert all(bool((value == 1).all()) for name, value in state.items() if "norm" in name)


def test_float64_model_starts_from_the_float32_values():
    exact = Llama(CONFIG, VOCAB_SIZE).double()
    initialize(exact, 0)
    for name, value in initialized().state_dict().items():
        assert torch.equal(exact.state_dict()[name], value.double())


def test_weights_are_tied_again_after_meta_construction():
    with torch.device("meta"):
        model = Llama(TIED, VOCAB_SIZE)
    model.to_empty(device="cpu")
    initialize(model, 0)
    assert model.lm_head.weight is model.model.embed_tokens.weight


@pytest.mark.parametrize("config", [CONFIG, TIED])
def test_sharded_after_meta_construction_equals_single_process(tmp_path, config):
    run_ranks(tmp_path, 2, _compare_sharded, config)


def _compare_sharded(config):
    with torch.device("meta"):
        model = Llama(config, VOCAB_SIZE)
    mesh = init_device_mesh("cpu", (2,))
    for block in model.model.layers:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    model.to_empty(device="cpu")
    initialize(model, 0)
    single = initialized(config)
    expected = dict(single.named_parameters())
    found = dict(model.named_parameters())
    assert list(found) == list(expected)
    for name, parameter in found.items():
        assert isinstance(parameter, DTensor)
        assert torch.equal(parameter.full_tensor(), expected[name]), name
    ids = torch.arange(40).view(2, 20)
    documents = layout_of((torch.arange(20) // 7).expand(2, 20))
    torch.testing.assert_close(model(ids, documents=documents), single(ids, documents=documents))
