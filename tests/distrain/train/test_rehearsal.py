"""The heaviest microbatches are computed before the first step, and nothing is left of it."""

import json
import math

import numpy as np
import pytest
import torch

from distrain.data.samples.examples import ExampleStream, example_dataset
from distrain.data.samples.order import Order
from distrain.runs.json_lines import read_records
from distrain.train import rehearsal
from distrain.train.agreed import agree
from distrain.train.loop import train_step
from distrain.train.rehearsal import HeavyBatch, find_heaviest, passes_of, rehearse
from tests.distrain.data.samples.made_examples import made_examples
from tests.distrain.parallel.probe import copy_of, everywhere, same_boxes
from tests.distrain.train.synthetic import ENGINES, SEQUENCE_LENGTH, make_run, make_stage
from tests.ranks import run_ranks

STEPS = 3


def examples_run(folder, engine, packing="none", dropout=0.1):
    examples = made_examples(80, longest=SEQUENCE_LENGTH + 1)
    for example in examples:
        example.ids[:] %= 61
    dataset = example_dataset(examples, SEQUENCE_LENGTH, pad_id=0, packing=packing)
    stream = ExampleStream(dataset, Order(5, "made", len(dataset)))
    parallelism = ENGINES[engine] if isinstance(engine, str) else engine
    stage = make_stage(parallelism=parallelism, max_steps=STEPS, dropout=dropout, precision="fp32")
    return make_run(folder, stage, train={"made": stream}, held_out={"made": dataset})


def losses_of(run, *, rehearsed):
    run.restore()
    before = copy_of(run.engine.state()), run.engine.optimizer_scalars()
    drawn = torch.random.get_rng_state()
    if rehearsed:
        rehearse(run, 0)
    same = everywhere(same_boxes(before[0], run.engine.state()))
    same = same and before[1] == run.engine.optimizer_scalars()
    same = same and torch.equal(drawn, torch.random.get_rng_state())
    found = []
    for step, batch in enumerate(run.loader.batches(0, STEPS)):
        result = train_step(run, batch, agree(run, batch), step)
        found.append((result.loss, result.grad_norm))
    close(run)
    return found, same


def close(run):
    if run.monitor is not None:
        run.monitor.close()
    run.engine.close()


def compare(folder, engines):
    for engine in engines:
        plain, _ = losses_of(examples_run(folder / f"{engine}-plain", engine), rehearsed=False)
        found, same = losses_of(examples_run(folder / engine, engine), rehearsed=True)
        (folder / f"{engine}-{torch.distributed.get_rank()}.json").write_text(
            json.dumps([plain, found, same])
        )


def assert_untouched(folder, engines, ranks):
    run_ranks(folder, ranks, compare, folder, engines)
    for engine in engines:
        for rank in range(ranks):
            plain, found, same = json.loads((folder / f"{engine}-{rank}.json").read_text())
            assert same, engine
            assert found == plain
        (event,) = [
            e for e in read_records(folder / engine / "events.jsonl") if e["event"] == "rehearsed"
        ]
        assert event["targets"] > 0


def test_a_rehearsal_changes_no_state_and_no_step(tmp_path):
    assert_untouched(tmp_path, ["fsdp"], 2)


@pytest.mark.seams
@pytest.mark.parametrize("engine", ["single", "ddp", "zero1", "zero2", "zero3"])
def test_a_rehearsal_changes_nothing_under_any_engine(tmp_path, engine):
    assert_untouched(tmp_path, [engine], 1 if engine == "single" else 2)


def test_an_update_that_is_not_refused_would_be_noticed(tmp_path, monkeypatch):
    class Finite:
        nan = 0.5
        isfinite = math.isfinite

    monkeypatch.setattr(rehearsal, "math", Finite)
    _, same = losses_of(examples_run(tmp_path, "single"), rehearsed=True)
    assert not same


@pytest.mark.parametrize("packing", ["none", "best_fit"])
def test_what_is_computed_first_is_the_heaviest_that_comes(tmp_path, packing):
    run = examples_run(tmp_path, "single", packing)
    parts = find_heaviest(run, 1)
    sizes, targets, documents = [], [], []
    for step in range(1, STEPS):
        for microbatch in run.loader.batch_at(step).microbatches:
            sizes.append(microbatch.input_ids.numel())
            targets.append(microbatch.num_targets)
            is_real = [length > 1 for length in microbatch.document_lengths]
            documents.append(max(np.array(microbatch.document_lengths)[is_real]))
    # Rows are rounded up to a multiple of eight.
    assert max(sizes) - 8 * run.loader.micro_batch_size <= parts[0].positions <= max(sizes)
    assert max(part.targets for part in parts) == max(targets)
    assert max(part.longest_document for part in parts) <= max(documents)
    assert 1 <= len(parts) <= 3
    close(run)


@pytest.mark.parametrize(
    ("at_once", "together"), [(None, [3]), (1, [1, 1, 1]), (2, [2, 2]), (3, [3]), (8, [8])]
)
def test_stages_rehearse_as_many_at_once_as_a_step_has(at_once, together):
    parts = [HeavyBatch(number, 1, 8, 8, 8) for number in range(3)]
    passes = passes_of(parts, at_once)
    assert [len(some) for some in passes] == together
    assert {part for some in passes for part in some} == set(parts)


def rehearse_in_stages(folder):
    stages = {"strategy": "fsdp", "pipeline_parallel": 2}
    run = examples_run(folder, stages, dropout=0.0)
    rehearse(run, 0)
    close(run)


@pytest.mark.axes
def test_stages_rehearse(tmp_path):
    run_ranks(tmp_path / "ranks", 2, rehearse_in_stages, tmp_path)
    events = read_records(tmp_path / "events.jsonl")
    assert [event["event"] for event in events].count("rehearsed") == 1


def test_rows_that_cost_the_same_are_not_rehearsed(tmp_path):
    run = make_run(tmp_path, make_stage("single", max_steps=STEPS))
    assert find_heaviest(run, 0) == []
    close(run)
