"""A run that goes on with another batch size reads on where it was, and says so."""

import json

import pytest

from distrain.errors import DataError
from distrain.fault.wishes import Wish
from distrain.train.loop import train
from tests.distrain.train.synthetic import SEQUENCE_LENGTH, make_run, make_stage
from tests.distrain.train.test_resume import close, yield_at
from tests.ranks import run_ranks
from tests.tiny import events


def stage_of(batch_size, **sections):
    return make_stage(
        max_steps=12, training={"global_batch_size": batch_size}, checkpoint={"save_steps": 50},
        **sections,
    )  # fmt: skip


def lives_of(folder):
    """Seven steps of eight samples, then five of four."""
    first = make_run(folder, stage_of(8))
    yield_at(first, folder, 7)
    close(first)
    (folder / "control" / "yield").unlink()
    last = make_run(folder, stage_of(4))
    assert train(last)[1] is Wish.NONE
    close(last)


def test_a_change_of_the_batch_size_is_recorded(tmp_path):
    run_ranks(tmp_path / "ranks", 1, lives_of, tmp_path)
    lines = (tmp_path / "pretrain" / "metrics.jsonl").read_text().splitlines()
    steps = [record for record in map(json.loads, lines) if "train/loss" in record]
    read = [(step["data/first_sample"], step["data/num_samples"]) for step in steps]
    assert read == [(8 * step, 8) for step in range(7)] + [(56 + 4 * step, 4) for step in range(5)]
    assert steps[-1]["train/tokens_seen"] == (56 + 20) * SEQUENCE_LENGTH
    (event,) = events(tmp_path, "schedule_changed")
    assert (event["step"], event["sample"], event["batch_size"]) == (7, 56, 4)
    record = json.loads((tmp_path / "pretrain" / "data.json").read_text())
    assert [part["batch_size"] for part in record["schedule"]] == [8, 4]
    assert (record["step"], record["max_steps"], list(record["sources"])) == (7, 12, ["made"])


def too_long(folder):
    """The source has 500 samples; what was read in steps of eight counts."""
    lives_of(folder)
    longer = {"max_steps": 140, "global_batch_size": 4}
    enough = stage_of(4, data={"max_epochs": 1.2}).model_copy(
        update={"training": stage_of(4).training.model_copy(update=longer)}
    )
    run = make_run(folder, enough)
    assert run.restore().step == 12
    close(run)
    too_few = enough.model_copy(update={"data": enough.data.model_copy(update={"max_epochs": 1.0})})
    run = make_run(folder, too_few)
    # 7 * 8 + 111 * 4 = 500; steps of four alone would come to 125.
    with pytest.raises(DataError, match=r"1\.18 epochs .* exhausted at step 118"):
        run.restore()
    close(run)


def test_epochs_are_counted_along_the_schedule_that_the_run_has_had(tmp_path):
    run_ranks(tmp_path / "ranks", 1, too_long, tmp_path)
