"""Compiled blocks: the same gradients, the same names, and no code for each layout of documents."""

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from distrain.config.models import LlamaConfig
from distrain.models import build_model
from distrain.models.attention import DocumentLayout
from distrain.models.init import initialize
from distrain.parallel import compilation
from distrain.parallel.compilation import compile_blocks
from distrain.parallel.recomputation import recompute_blocks
from tests.ranks import run_ranks

VOCAB, LENGTH = 40, 24


class Counting:
    """A backend that runs what it is given as it is, and counts it."""

    def __init__(self):
        self.graphs = 0

    def __call__(self, graph, inputs):
        del inputs
        self.graphs += 1
        return graph.forward


def model_of(backend=None, every=None):
    torch._dynamo.reset()  # code is kept by function, whichever model it belongs to
    config = LlamaConfig.model_validate(
        {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24}
        | {"num_hidden_layers": 3, "dropout": 0.2, "initializer_range": 0.3}
    )
    model = build_model(config, VOCAB)
    initialize(model, 1)
    if backend is not None:
        compile_blocks(model, model.block_classes, backend)
    if every is not None:
        recompute_blocks(model, model.block_classes, every)
    return model


def gradients_of(model, lengths=(24, 24), seed=5):
    ids = torch.arange(2 * LENGTH).view(2, LENGTH) % VOCAB
    ends = torch.tensor([0, *lengths]).cumsum(0)
    positions = torch.cat([torch.arange(length) for length in lengths]).view(2, LENGTH)
    documents = DocumentLayout(ends.int(), positions, tuple(lengths))
    torch.manual_seed(seed)
    loss = model(ids, target_ids=(ids + 1) % VOCAB, rows=(2,), documents=documents).sum()
    torch.manual_seed(99)
    loss.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    return found | {"loss": loss.detach()}


LAYOUTS = [(24, 24), (20, 4, 24), (3, 5, 16, 7, 17), (1, 23, 12, 12), (9, 9, 6, 24)]


@pytest.mark.parametrize("every", [None, 1])
def test_gradients_are_those_of_the_plain_blocks_with_dropout_too(every):
    counting = Counting()
    compiled, plain = model_of(counting, every), model_of()
    for lengths in LAYOUTS:
        torch.testing.assert_close(gradients_of(compiled, lengths), gradients_of(plain, lengths))
    assert counting.graphs > 0
    with pytest.raises(AssertionError):  # control: dropout acts, and another draw would be seen
        torch.testing.assert_close(gradients_of(compiled, seed=6), gradients_of(plain))


def graphs_of(layouts):
    counting = Counting()
    model = model_of(counting)
    for lengths in layouts:
        gradients_of(model, lengths)
    return counting.graphs


@pytest.mark.models
def test_no_layout_of_documents_is_compiled_for_itself(monkeypatch):
    assert graphs_of(LAYOUTS) == graphs_of(LAYOUTS[1:2])
    # Control: with attention inside, each layout is another graph.
    monkeypatch.setattr(compilation, "NOT_COMPILED", ())
    skipped = torch._dynamo.trace_rules.SKIP_DIRS
    monkeypatch.setattr(
        torch._dynamo.trace_rules, "SKIP_DIRS", [d for d in skipped if "distrain" not in d]
    )
    torch._dynamo.trace_rules._recompile_re()
    assert graphs_of(LAYOUTS) > graphs_of(LAYOUTS[1:2])


def test_parameters_keep_their_names():
    assert list(model_of(Counting()).state_dict()) == list(model_of().state_dict())


@pytest.mark.models
def test_shards_are_gathered_around_compiled_blocks(tmp_path):
    run_ranks(tmp_path, 2, _compare_shards)


def _compare_shards():
    mesh = init_device_mesh("cpu", (2,))
    counting = Counting()
    found = []
    for backend in (None, counting):
        model = model_of(backend, every=1)
        names = list(model.state_dict())
        for module in [*model.model.layers, model]:
            fully_shard(module, mesh=mesh)
        assert list(model.state_dict()) == names
        gradients = gradients_of(model, LAYOUTS[1])
        found.append({name: getattr(g, "_local_tensor", g) for name, g in gradients.items()})
    assert counting.graphs > 0
    torch.testing.assert_close(*found)
