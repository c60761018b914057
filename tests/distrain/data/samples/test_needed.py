from dataclasses import replace

import numpy as np
import pytest
import torch

from distrain.config.models import LlamaConfig
from distrain.config.tasks import CAUSAL_LM, IGNORE_INDEX
from distrain.config.training import LossConfig
from distrain.data.samples.datasets import gather
from distrain.data.samples.examples import example_dataset
from distrain.data.samples.loader import Microbatch
from distrain.models import build_model
from distrain.models.init import initialize
from distrain.tasks import TASKS
from tests.distrain.data.samples.made_examples import made_examples

LENGTH = 64
CONFIG = LlamaConfig(
    hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24
)


def rows_of(packing, *, needed_only, count=6):
    dataset = example_dataset(made_examples(60, longest=25), LENGTH, pad_id=0, packing=packing)
    dataset.needed_only = needed_only
    return gather(dataset, np.arange(count))


@pytest.mark.parametrize("packing", ["none", "best_fit"])
def test_a_microbatch_ends_behind_its_last_target_and_names_the_places_of_all(packing):
    rows = rows_of(packing, needed_only=True)
    for start, stop in ((0, 6), (1, 3), (4, 5)):
        part = Microbatch.from_rows(rows, start, stop)
        length = part.input_ids.shape[1]
        whole = rows.target_ids[start:stop]
        assert (whole[:, length:] == IGNORE_INDEX).all()
        assert (whole[:, max(0, length - 8) : length] != IGNORE_INDEX).any()
        assert length % 8 == 0 or length == LENGTH
        assert part.places is not None
        flat = whole[:, :length].reshape(-1)
        assert part.places.tolist() == np.flatnonzero(flat != IGNORE_INDEX).tolist()
        assert sum(part.document_lengths) == part.input_ids.numel() == part.cu_seqlens[-1]
        # Documents begin where positions do.
        begins = np.flatnonzero(part.position_ids.reshape(-1) == 0).tolist()
        assert part.cu_seqlens.tolist()[:-1] == begins
        assert part.num_targets == int((whole != IGNORE_INDEX).sum())
    short = Microbatch.from_rows(rows_of("none", needed_only=True), 0, 2)
    assert short.input_ids.shape[1] < LENGTH  # or nothing would be tried here


def losses(microbatch, *, chunk_tokens, groups=None):
    torch.manual_seed(1)
    model = build_model(CONFIG, 96, LossConfig(chunk_tokens=chunk_tokens)).double()
    initialize(model, 1)
    microbatch = microbatch if groups is None else group(microbatch, groups)
    measured = TASKS[CAUSAL_LM].measure(model, microbatch)
    measured.trained.sum().backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    return measured.trained.detach(), gradients


def group(microbatch, sizes):
    return replace(microbatch, row_groups=sizes)


@pytest.mark.parametrize("packing", ["none", "best_fit"])
@pytest.mark.parametrize(("chunk_tokens", "groups"), [(None, None), (16, None), (16, (1, 3, 2))])
def test_losses_and_gradients_are_those_of_all_positions(packing, chunk_tokens, groups):
    options = {"chunk_tokens": chunk_tokens, "groups": groups}
    short = Microbatch.from_rows(rows_of(packing, needed_only=True), 0, 6)
    whole = Microbatch.from_rows(rows_of(packing, needed_only=False), 0, 6)
    found, gradients = losses(short, **options)
    expected, others = losses(whole, **options)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, others[name], rtol=1e-9, atol=1e-12)


def test_without_a_target_the_sum_is_0_and_gradients_are_there():
    rows = rows_of("none", needed_only=True)
    rows.target_ids[:] = IGNORE_INDEX
    for chunk_tokens in (None, 16):
        found, gradients = losses(Microbatch.from_rows(rows, 0, 3), chunk_tokens=chunk_tokens)
        assert found.tolist() == [0.0]
        assert all(float(gradient.abs().max()) == 0 for gradient in gradients.values())
