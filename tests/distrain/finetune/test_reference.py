import numpy as np
import pytest
import torch

from distrain.config.layout import resolve_layout
from distrain.config.lora import LoraConfig
from distrain.config.models import LlamaConfig
from distrain.config.training import ParallelismConfig
from distrain.finetune.lora import inject_lora
from distrain.finetune.reference import compute_reference, live_reference
from distrain.models import build_model
from distrain.models.init import initialize
from distrain.parallel.collectives import HostGroup
from distrain.parallel.ranks import Ranks
from distrain.tasks.preference import answer_logps
from tests.distrain.tasks.preferences import VOCAB_SIZE, dataset_of, made_pairs, microbatch_of
from tests.ranks import run_ranks

COUNT = 7
CPU = torch.device("cpu")
SIZES = LlamaConfig(
    hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=40, dropout=0.5
)


def base():
    model = build_model(SIZES, VOCAB_SIZE)
    initialize(model, seed=5)
    return model.double()


def all_pairs():
    return microbatch_of(dataset_of(made_pairs(COUNT)), range(COUNT))


def said_by(model):
    with torch.no_grad():
        return answer_logps(model.eval(), all_pairs())


def test_it_is_what_the_base_says_without_adapters_and_without_dropout():
    expected = said_by(base())
    model = inject_lora(base(), LoraConfig(r=2), seed=1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    model.train()
    found = live_reference(model, all_pairs())
    torch.testing.assert_close(found, expected)
    assert model.training
    assert not found.requires_grad
    kept = compute_reference(model, dataset_of(made_pairs(COUNT)), CPU, micro_batch_size=2)
    assert kept == pytest.approx(expected.numpy(), rel=1e-12)
    # The control: with its adapters the model says something else.
    assert (said_by(model) - expected).abs().max() > 1e-3


def computed(folder, size):
    ranks = Ranks(resolve_layout(ParallelismConfig(strategy="ddp"), size), HostGroup())
    found = compute_reference(base(), dataset_of(made_pairs(COUNT)), CPU, 2, ranks)
    np.save(folder / f"{ranks.host.rank}.npy", found)


def test_ranks_share_the_pairs_and_all_get_all(tmp_path):
    run_ranks(tmp_path / "ranks", 2, computed, tmp_path, 2)
    found = [np.load(tmp_path / f"{rank}.npy") for rank in (0, 1)]
    assert np.array_equal(*found)
    assert found[0] == pytest.approx(said_by(base()).numpy(), rel=1e-12)
