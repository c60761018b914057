"""Losses of examples one by one: those of each example alone, on any number of ranks."""

import json

import numpy as np
import pytest
import torch

from distrain.data.samples.examples import example_dataset
from tests.distrain.data.samples.made_examples import made_examples
from tests.distrain.train.synthetic import SEQUENCE_LENGTH, VOCAB_SIZE, make_run, make_stage
from tests.ranks import run_ranks

CHOSEN = np.array([8, 0, 3, 12, 5, 6, 10])
"""Neither all of them nor in their order, and not as many on each rank."""


def made(packing="none"):
    examples = made_examples(13, seed=4, longest=SEQUENCE_LENGTH)
    for each in examples:
        each.ids[:] %= VOCAB_SIZE
    return examples, example_dataset(examples, SEQUENCE_LENGTH, pad_id=0, packing=packing)


def measure(folder, strategy):
    run = make_run(folder, make_stage(strategy))
    found = run.validation.sum_examples(made()[1], CHOSEN)
    assert run.engine.model.training
    run.engine.close()
    return found, run


def measure_and_write(folder, strategy):
    found, run = measure(folder, strategy)
    if run.host.rank == 1:  # whoever tells, it is the same
        (folder / "found.json").write_text(json.dumps([found.sums.tolist(), found.counts.tolist()]))


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return measure(tmp_path_factory.mktemp("alone"), "single")


def test_the_loss_of_an_example_is_that_of_a_pass_with_nothing_else(alone):
    found, run = alone
    model = run.engine.model.eval()
    examples, dataset = made()
    for place, number in enumerate(CHOSEN.tolist()):
        ids = torch.from_numpy(examples[number].ids.astype(np.int64))
        with torch.no_grad():
            logits = model(ids[None, :-1])[0].double()
        losses = torch.nn.functional.cross_entropy(logits, ids[1:], reduction="none")
        trained = examples[number].is_trained[1:]
        assert found.counts[place] == trained.sum()
        assert found.sums[place] == pytest.approx(losses.numpy()[trained].sum(), abs=1e-9)
    # The control: another order of the examples is no pass of the same.
    assert len({round(loss, 6) for loss in found.sums.tolist()}) == len(CHOSEN)
    assert dataset.tokens.num_targets()[CHOSEN].tolist() == found.counts.tolist()


def test_two_ranks_find_the_same_bits(tmp_path, alone):
    run_ranks(tmp_path, 2, measure_and_write, tmp_path, "fsdp")
    sums, counts = json.loads((tmp_path / "found.json").read_text())
    assert sums == alone[0].sums.tolist()
    assert counts == alone[0].counts.tolist()
