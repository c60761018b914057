"""What was read and left out is the same on any number of ranks, and where it changed."""

import json

import pytest

from distrain.errors import TrainingError
from distrain.runs.folder import RunFolder
from distrain.runs.skips import read_skips
from distrain.stages.training import train_to_outcome
from tests.distrain.train.synthetic import ENGINES, make_run, make_stage, spiked, stop_after
from tests.distrain.train.test_resume import close
from tests.ranks import run_ranks

STEPS = 16


def stage_of(engine):
    usual = {"window": 8, "warmup_steps": 4, "steps_before": 1, "steps_after": 1}
    return make_stage(
        precision="fp32",
        max_steps=STEPS,
        micro_batch_size=1,
        parallelism=ENGINES[engine],
        training={"on_spike": "rewind", "spikes": usual},
        checkpoint={"save_steps": 3},
    )


def go_on(folder, engine, stop=None, *, obeys=True):
    """Train to the end or for some steps; step 9 is a spike, wherever it is computed."""
    run = spiked(make_run(folder, stage_of(engine)), (9,))
    if stop is not None:
        stop_after(run, stop)
    if not obeys:
        run.guards.skip_of = lambda batch: None  # type: ignore[method-assign]
        run.guards.find = lambda *_: None  # type: ignore[method-assign]
    try:
        result = train_to_outcome(run)[0].result
    finally:
        close(run)
    if run.host.rank == 0 and result is not None:
        (folder / "samples.json").write_text(json.dumps(result["samples"]))


def samples_of(folder):
    return json.loads((folder / "samples.json").read_text())


def disobeys(folder):
    with pytest.raises(TrainingError, match="samples 56 to 79 trained on, though"):
        go_on(folder, "single", obeys=False)


@pytest.mark.seams
@pytest.mark.parametrize(
    ("engine", "lives"),
    [
        ("ddp", [(4, None)]),
        ("fsdp", [(2, 5), (4, None)]),
        ("fsdp", [(4, 11), (2, 3), (4, None)]),
        ("zero2", [(2, 7), (4, None)]),
    ],
)
def test_the_ledger_does_not_depend_on_ranks(tmp_path, engine, lives):
    run_ranks(tmp_path / "ranks", 1, go_on, tmp_path / "one", "single")
    for ranks, stop in lives:
        run_ranks(tmp_path / "ranks", ranks, go_on, tmp_path / "many", engine, stop)
    one, many = (samples_of(tmp_path / name) for name in ("one", "many"))
    assert one["read"] == [[0, 8 * STEPS]]
    assert one["left_out"] == [[56, 80]]  # steps 8 to 10
    skips = [read_skips(RunFolder(tmp_path / name).stage("pretrain")) for name in ("one", "many")]
    assert [[(s.first_step, s.last_step) for s in decisions] for decisions in skips] == [
        [(8, 10)],
        [(8, 10)],
    ]
    # The digest holds each step's number, samples, content and whether it was applied.
    assert one == many


@pytest.mark.seams
def test_a_stage_that_trains_on_what_is_left_out_is_not_done(tmp_path):
    run_ranks(tmp_path / "ranks", 1, go_on, tmp_path / "one", "single", 14)
    # Going back to before the window: the decision must be obeyed, and is not.
    for path in (tmp_path / "one/pretrain/checkpoints").glob("step_*"):
        if int(path.name[5:11]) > 6:
            path.rename(tmp_path / path.name)
    run_ranks(tmp_path / "ranks", 1, disobeys, tmp_path / "one")
