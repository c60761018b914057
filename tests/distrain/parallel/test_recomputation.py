"""Activation checkpointing changes what is kept, and nothing else."""

from collections import Counter

import pytest
import torch

from distrain.config.models import LlamaConfig
from distrain.models import build_model
from distrain.models.init import initialize
from distrain.parallel.recomputation import recompute_blocks

VOCAB, BLOCKS = 40, 3


def model_of(every=None, dropout=0.2, **sizes):
    config = LlamaConfig.model_validate(
        {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24}
        | {"num_hidden_layers": BLOCKS, "dropout": dropout, "initializer_range": 0.3}
        | sizes
    )
    model = build_model(config, VOCAB)
    initialize(model, 1)
    if every is not None:
        recompute_blocks(model, model.block_classes, every)
    return model


def gradients_of(model, *, seed=5, length=12, is_autocast=False):
    ids = torch.arange(2 * length).view(2, length) % VOCAB
    torch.manual_seed(seed)
    with torch.autocast("cpu", torch.bfloat16, enabled=is_autocast):
        loss = model(ids, target_ids=(ids + 1) % VOCAB, rows=(2,)).sum()
    torch.manual_seed(99)  # whatever was drawn since
    loss.backward()
    return {name: p.grad for name, p in model.named_parameters()} | {"loss": loss.detach()}


def are_equal(found, expected):
    assert list(found) == list(expected)
    return all(found[name].equal(expected[name]) for name in expected)


@pytest.mark.parametrize("is_autocast", [False, True])
@pytest.mark.parametrize("every", [1, 2])
def test_gradients_have_the_same_bits_with_dropout_too(every, is_autocast):
    expected = gradients_of(model_of(), is_autocast=is_autocast)
    assert are_equal(gradients_of(model_of(every), is_autocast=is_autocast), expected)
    # Control: dropout acts, and another draw would be seen.
    assert not are_equal(gradients_of(model_of(every), seed=6, is_autocast=is_autocast), expected)


def forwards_of(model, **settings):
    """How often each block's feed-forward layer ran."""
    counts: Counter[int] = Counter()
    for number, block in enumerate(model.model.layers):
        block.mlp.register_forward_hook(lambda *_, number=number: counts.update([number]))
    gradients_of(model, **settings)
    return [counts[number] for number in range(BLOCKS)]


@pytest.mark.parametrize(
    ("every", "expected"), [(None, [1, 1, 1]), (1, [2, 2, 2]), (2, [2, 1, 2]), (3, [2, 1, 1])]
)
def test_each_so_manieth_block_runs_again(every, expected):
    assert forwards_of(model_of(every)) == expected


def test_where_nothing_is_trained_nothing_runs_again():
    model = model_of(1)
    assert forwards_of(model.eval()) == [1, 1, 1]


def test_parameters_keep_their_names():
    assert list(model_of(1).state_dict()) == list(model_of().state_dict())


def kept_bytes(module, run):
    """Bytes of distinct tensors that autograd keeps of a forward pass, parameters apart."""
    own = {p.untyped_storage().data_ptr() for p in module.parameters()}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)  # held, so none is counted twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
    return sum(size for size, _ in kept.values())


def decoder_bytes(every=None, blocks=8):
    """What is kept of a decoder of ``blocks`` at T 512, without inputs of blocks made again."""
    sizes = {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 192}
    model = model_of(every, dropout=0.0, num_hidden_layers=blocks, **sizes)
    ids = torch.zeros(1, 512, dtype=torch.long)
    return kept_bytes(model.model, lambda: model(ids, target_ids=ids, rows=(1,)))


def test_blocks_keep_their_inputs_alone():
    inputs = 8 * 512 * 64 * 4
    block = decoder_bytes(blocks=2) - decoder_bytes(blocks=1)  # made again, one at a time
    assert decoder_bytes(1) + inputs + block <= 0.25 * decoder_bytes()
    assert decoder_bytes(4) + inputs + block > 0.5 * decoder_bytes()  # control: most keep all
