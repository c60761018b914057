import pytest
import torch

from distrain.config.layout import Axis, Layout
from distrain.config.models import LlamaConfig
from distrain.config.training import LossConfig
from distrain.data.samples.examples import example_dataset
from distrain.errors import DataError
from distrain.finetune.leaks import probe_leaks
from distrain.models import build_model
from distrain.models.attention import undivided
from distrain.models.init import initialize
from distrain.parallel.collectives import HostGroup
from distrain.parallel.ranks import Ranks
from tests.distrain.data.samples.made_examples import made_examples
from tests.ranks import run_ranks

CPU = torch.device("cpu")
CONFIG = LlamaConfig(
    hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24
)


class Blind(torch.nn.Module):
    """Takes a row for one document, as a model that knows no documents does."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, *, documents, **others):
        return self.model(input_ids, documents=undivided(input_ids), **others)


def model(chunk_tokens=None):
    made = build_model(CONFIG, 96, LossConfig(chunk_tokens=chunk_tokens))
    initialize(made, 1)
    return made


def alone():
    return Ranks(Layout("single", 3, 1, 1), HostGroup())


def packed(length=64):
    return example_dataset(made_examples(30), length, pad_id=0, packing="best_fit")


@pytest.mark.parametrize("chunk_tokens", [None, 16])
def test_examples_of_a_row_do_not_move_each_other(chunk_tokens):
    probed = model(chunk_tokens).train()
    found = probe_leaks(probed, packed(), 96, CPU, alone())
    assert found.examples >= 3
    assert found.positions > 30
    assert (found.largest, found.allowed) == (0.0, 0.0)
    assert probed.training


def test_a_model_that_does_not_know_where_examples_begin_is_refused():
    with pytest.raises(DataError, match=r"move by up to .* nats with another's tokens"):
        probe_leaks(Blind(model()), packed(), 96, CPU, alone())


def test_rows_of_one_example_have_nothing_to_leak():
    single = example_dataset(made_examples(30), 64, pad_id=0)
    assert probe_leaks(Blind(model()), single, 96, CPU, alone()).examples == 0


def probe_on_two(is_seen):
    """Let rank 1 alone see what leaks, as where it holds the columns of an example."""
    host = HostGroup()
    ranks = Ranks(Layout("fsdp", 3, 1, 1, inner=(Axis("context", 2, "columns"),)), host)
    probed = Blind(model()) if is_seen and host.rank == 1 else model()
    if not is_seen:
        assert probe_leaks(probed, packed(), 96, CPU, ranks).largest == 0
        return
    with pytest.raises(DataError, match="nats with another's tokens"):
        probe_leaks(probed, packed(), 96, CPU, ranks)


@pytest.mark.axes
@pytest.mark.parametrize("is_seen", [True, False])
def test_what_one_rank_sees_all_refuse(is_seen, tmp_path):
    run_ranks(tmp_path, 2, probe_on_two, is_seen)
