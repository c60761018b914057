"""A stage is done only when its steps have read each sample once and in order."""

import json
from dataclasses import replace

import pytest

from distrain.checkpoint.layout import committed
from distrain.config.best import EarlyStopping
from distrain.errors import TrainingError
from distrain.fault.wishes import Wish
from distrain.monitor.step_result import StepResult
from distrain.stages.training import train_to_outcome
from distrain.train.agreed import check_parts
from distrain.train.ledger import SampleLedger
from distrain.train.loop import train
from distrain.train.progress import Progress
from tests.distrain.train.synthetic import make_run, make_stage
from tests.distrain.train.test_restore import commit_again
from tests.distrain.train.test_resume import close, yield_at
from tests.ranks import run_ranks


def step(first, *, size=8, applied=True, batch_hash=1, not_applied=None):
    return StepResult(
        loss=2.0,
        learning_rate=1e-3,
        grad_norm=1.0,
        applied=applied and not_applied is None,
        not_applied=not_applied,
        first_sample=first,
        num_samples=size,
        num_tokens=512,
        num_targets=500,
        batch_hash=batch_hash,
        memory_gib=0.5,
    )


def ledger_of(*firsts, ledger=None):
    ledger = ledger or SampleLedger()
    for first in firsts:
        ledger = ledger.after(step(first))
    return ledger


def test_each_sample_once_and_in_order_leaves_no_difference():
    ledger = ledger_of(0, 8, 16)
    assert ledger.read == ((0, 24),)
    assert ledger.find_difference(3, 24) is None
    assert SampleLedger().find_difference(0, 0) is None
    assert SampleLedger.from_json(json.loads(json.dumps(ledger.to_json()))) == ledger


@pytest.mark.parametrize(
    ("firsts", "end", "words"),
    [
        ((0, 16), 24, "samples 8 to 15 never read"),
        ((0, 9), 16, "samples 8 to 8 never read; samples 16 to 16 read, though"),
        ((0, 8, 8), 16, "samples 8 to 15 read more than once"),
        ((0, 4), 12, "samples 4 to 7 read more than once"),
        ((8, 0), 16, "samples read out of order: 8 to 15, 0 to 7"),
        ((0, 8, 24), 16, "samples 24 to 31 read, though the stage has only 0 to 15"),
        ((0,), 16, "samples 8 to 15 never read"),
        ((0, 24, 48, 72, 96), 104, "8 to 23, 32 to 47, 56 to 71 and 1 more stretches never read"),
    ],
)
def test_a_difference_is_named(firsts, end, words):
    found = ledger_of(*firsts).find_difference(len(firsts), end)
    assert found is not None
    assert words in found


def test_steps_without_samples_are_a_difference():
    assert ledger_of(0, 8).find_difference(2, 16) is None
    assert "2 steps that read samples, of 3 made" in ledger_of(0, 8).find_difference(3, 16)


def test_the_digest_tells_content_order_and_what_was_left_out():
    told = {
        SampleLedger().after(result).digest
        for result in (step(0), step(8), step(0, batch_hash=2), step(0, applied=False))
    }
    assert len(told) == 4
    left_out = ledger_of(0, 8).after(step(16, applied=False)).after(step(24))
    assert left_out.left_out == ((16, 24),)
    assert left_out.find_difference(4, 32) is None


@pytest.mark.parametrize(
    ("skipped", "words"),
    [
        ([(8, 16)], None),
        ([], "samples 8 to 15 left out, though no decision says so"),
        ([(8, 24)], "samples 16 to 23 trained on, though they are left out"),
        ([(0, 8), (8, 16)], "samples 0 to 7 trained on"),
    ],
)
def test_what_was_left_out_is_what_was_decided(skipped, words):
    """Step 2 was left out by decision; of step 4 the loss was no number."""
    ledger = ledger_of(0)
    for result in (step(8, not_applied="rewind"), step(16), step(24, not_applied="nonfinite")):
        ledger = ledger.after(result)
    assert (ledger.left_out, ledger.nonfinite) == (((8, 16), (24, 32)), ((24, 32),))
    found = ledger.find_unrecorded(skipped)
    assert found is None if words is None else words in str(found)
    older = SampleLedger.from_json({**ledger.to_json(), "nonfinite": None})
    assert older.find_unrecorded([]) is None
    assert older.find_unrecorded([(0, 8)]) is not None
    later = SampleLedger(1, 8).after(step(8, not_applied="rewind"))
    assert later.find_unrecorded([(0, 8), (8, 16)]) is None


def test_one_that_begins_later_counts_from_there():
    ledger = ledger_of(40, 48, ledger=SampleLedger(first_step=5, first_sample=40))
    assert ledger.find_difference(7, 56) is None
    assert "40 to 47 never read" in ledger_of(48, ledger=SampleLedger(5, 40)).find_difference(6, 56)


def test_a_stage_that_ends_too_early_is_not_done():
    progress = Progress().after(step(0))
    progress.check_complete(1, 8, None)
    stale = replace(progress, evals_since_best=2)
    stale.check_complete(9, 8, EarlyStopping(patience=2))
    with pytest.raises(TrainingError, match="after 1 of 9 steps, which nobody asked for"):
        progress.check_complete(9, 8, None)


def test_ranks_that_read_the_same_part_are_found():
    batch = make_batch(first=16, size=8)
    check_parts(batch, 8, sum(range(16, 24)))
    with pytest.raises(TrainingError, match="batch of samples 16 to 23"):
        check_parts(batch, 8, 2 * sum(range(16, 20)))
    with pytest.raises(TrainingError, match="4 samples over all ranks"):
        check_parts(batch, 4, sum(range(16, 20)))


def make_batch(first, size):
    from distrain.data.samples.loader import Batch

    return Batch((), first, size, first, 0)


def stage_of(batch_size):
    return make_stage(
        "single",
        precision="fp32",
        max_steps=8,
        training={"global_batch_size": batch_size},
        checkpoint={"save_steps": 50},
    )


def shift_by_one(extra):
    """What must be found: the next step reads one sample further on."""
    (segment,) = extra["data"]["schedule"]
    segment["first_sample"] += 1
    del extra["next_samples"]  # or the resume would be refused before it reads anything


def half(folder):
    run = make_run(folder, stage_of(8))
    yield_at(run, folder, 4)
    close(run)
    (folder / "control" / "yield").unlink()


def change_checkpoint(folder, how):
    checkpoints = folder / "pretrain" / "checkpoints"
    (name,) = committed(checkpoints)
    commit_again(checkpoints / str(name), how)


def go_on(folder, batch_size=8):
    run = make_run(folder, stage_of(batch_size))
    try:
        result = train_to_outcome(run)[0].result
        assert result is not None
        return result["samples"]
    finally:
        close(run)


def lives(folder):
    for name, batch_size in (("changed", 4), ("shifted", 8), ("older", 8)):
        half(folder / name)
        if name == "shifted":
            change_checkpoint(folder / name, shift_by_one)
            with pytest.raises(TrainingError, match="samples 32 to 32 never read"):
                go_on(folder / name)
            continue
        if name == "older":
            change_checkpoint(folder / name, lambda extra: extra.pop("ledger"))
        found = go_on(folder / name, batch_size)
        (folder / f"{name}.json").write_text(json.dumps(found))
    run = make_run(folder / "whole", stage_of(8))
    progress, wish = train(run)
    assert wish is Wish.NONE
    (folder / "whole.json").write_text(json.dumps(progress.ledger.to_json()))
    close(run)


def test_it_is_kept_over_attempts_and_finds_a_checkpoint_that_reads_elsewhere(tmp_path):
    run_ranks(tmp_path / "ranks", 1, lives, tmp_path)
    read = {name: json.loads((tmp_path / f"{name}.json").read_text()) for name in NAMES}
    assert read["changed"]["read"] == [[0, 32 + 16]]
    assert read["older"]["read"] == [[32, 64]]
    assert (read["older"]["first_step"], read["older"]["first_sample"]) == (4, 32)
    half_way = SampleLedger.from_json(read["changed"])
    assert half_way.find_difference(8, 48) is None
    assert read["whole"]["read"] == [[0, 64]]


NAMES = ("changed", "older", "whole")
