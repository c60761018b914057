"""A spike leads back to a checkpoint before it, and on without the steps around it, for good."""

import json
import shutil

import pytest
import torch.distributed as dist

from distrain.checkpoint.dcp import read_full
from distrain.errors import CheckpointError, TrainingError
from distrain.runs.folder import RunFolder
from distrain.runs.skips import read_skips
from distrain.train.loop import train
from tests.distrain.train.synthetic import ENGINES, make_run, make_stage, spiked
from tests.distrain.train.test_resume import close
from tests.ranks import run_ranks
from tests.tiny import EXACT_FIELDS, events

BAD_STEPS = (13, 14, 15)
STEPS = 24


def stage_of(engine="single", on_spike="rewind", steps=STEPS, **spikes):
    usual = {"window": 8, "warmup_steps": 4, "steps_before": 2, "steps_after": 1}
    return make_stage(
        precision="fp32",
        max_steps=steps,
        dropout=0.1,
        micro_batch_size=4,
        parallelism=ENGINES[engine],
        training={"on_spike": on_spike, "spikes": usual | spikes},
        checkpoint={"save_steps": 5, "keep_best": {}},
        eval={"eval_steps": 4},
    )


def train_through(folder, stage, bad_steps=BAD_STEPS):
    run = spiked(make_run(folder, stage), bad_steps)
    try:
        train(run)
    finally:
        close(run)


def give_decisions(source, target):
    """Let a run know from its first step what another one has decided."""
    if dist.get_rank() == 0:
        (target / "pretrain").mkdir(parents=True)
        shutil.copy(source / "pretrain" / "skips.jsonl", target / "pretrain")
    dist.barrier()


def rewound_twin_and_control(folder, engine, stage):
    train_through(folder / "rewound", stage)
    give_decisions(folder / "rewound", folder / "twin")
    train_through(folder / "twin", stage_of(engine, "report"))
    train_through(folder / "control", stage_of(engine, "report"))


def exact_steps(folder):
    lines = (folder / "pretrain" / "metrics.jsonl").read_text().splitlines()
    fields = (*EXACT_FIELDS, "train/not_applied", "train/tokens_seen")
    return [{key: json.loads(line).get(key) for key in fields} for line in lines]


def tensors(folder, steps=STEPS):
    return read_full(folder / "pretrain" / "checkpoints" / f"step_{steps:06d}", prefix="")


def progress_of(folder):
    path = folder / "pretrain" / "checkpoints" / f"step_{STEPS:06d}" / "extra.json"
    extra = json.loads(path.read_text())
    return extra["progress"], extra["usual"], extra["skips"]


def is_same_end(folder, twin):
    ours, theirs = tensors(folder), tensors(twin)
    assert ours.keys() == theirs.keys()
    return all(tensor.equal(theirs[name]) for name, tensor in ours.items())


def assert_same(folder, twin):
    assert is_same_end(folder, twin)
    assert exact_steps(folder) == exact_steps(twin)
    assert progress_of(folder) == progress_of(twin)


def left_out(folder):
    return [
        (skip.first_step, skip.last_step, skip.reason, skip.rewound_to)
        for skip in read_skips(RunFolder(folder).stage("pretrain"))
    ]


def test_it_ends_as_a_run_that_never_took_those_steps(tmp_path):
    stage = stage_of()
    run_ranks(tmp_path / "ranks", 1, rewound_twin_and_control, tmp_path, "single", stage)
    rewound = tmp_path / "rewound"

    # The first spike leads to step 10; of what it leaves, step 15 spikes again. That leads to the
    # validation within the first window: the best so far, and made without its steps.
    assert left_out(rewound) == [(11, 14, "loss", 10), (15, 16, "loss", 12)]
    assert [(e["step"], e["action"]) for e in events(rewound, "spike")] == [
        (13, "rewound"),
        (15, "rewound"),
    ]
    assert [(e["step"], e["first_sample"]) for e in events(rewound, "rewound")] == [
        (10, 80),
        (12, 112),
    ]
    steps = [s for s in exact_steps(rewound) if s["eval/loss"] is None]
    assert [s["train/global_step"] for s in steps] == list(range(1, STEPS + 1))
    passed = [s["train/global_step"] for s in steps if s["train/not_applied"] == "rewind"]
    assert passed == list(range(11, 17))
    assert_same(rewound, tmp_path / "twin")
    assert not is_same_end(rewound, tmp_path / "control")
    # What is made again up to the steps that are left out is what it was; these raise no alarm.
    assert events(rewound, "not_certified") == []
    assert [str(e["again"]) for e in events(rewound, "certified")] == [
        "steps 11 to 12 made again bit by bit, from step 11 on, which is left out now, in what "
        "they read",
        "steps 13 to 14 made again bit by bit",
    ]


@pytest.mark.seams
@pytest.mark.parametrize(
    ("engine", "spikes", "reason"),
    [
        ("ddp", {}, "loss"),
        ("fsdp", {}, "loss"),
        ("fsdp", {"loss_threshold": None}, "grad_norm"),
        ("zero1", {"loss_threshold": None}, "grad_norm"),
        ("zero2", {}, "loss"),
        ("zero2", {"loss_threshold": None}, "grad_norm"),
        ("zero3", {"loss_threshold": None}, "grad_norm"),
    ],
)
def test_it_does_so_under_every_engine(engine, spikes, reason, tmp_path):
    stage = stage_of(engine, **spikes)
    run_ranks(tmp_path / "ranks", 2, rewound_twin_and_control, tmp_path, engine, stage)
    assert {skip[2] for skip in left_out(tmp_path / "rewound")} == {reason}
    assert_same(tmp_path / "rewound", tmp_path / "twin")
    assert not is_same_end(tmp_path / "rewound", tmp_path / "control")


def skip_then_replay(folder, engine):
    """Skip spikes in their place, then go on from an older checkpoint without judging anew."""
    train_through(folder / "skipped", stage_of(engine, "skip"))
    give_decisions(folder / "skipped", folder / "twin")
    train_through(folder / "twin", stage_of(engine, "report"))


@pytest.mark.seams
@pytest.mark.parametrize("engine", ["single", "fsdp", "zero2"])
def test_a_step_that_is_skipped_stays_skipped(engine, tmp_path):
    ranks = 1 if engine == "single" else 2
    run_ranks(tmp_path / "ranks", ranks, skip_then_replay, tmp_path, engine)
    skipped = tmp_path / "skipped"
    assert left_out(skipped) == [(step, step, "loss", None) for step in BAD_STEPS]
    steps = [s for s in exact_steps(skipped) if s["train/not_applied"] == "spike"]
    assert [s["train/global_step"] for s in steps] == list(BAD_STEPS)
    assert all(s["train/loss"] > 50 for s in steps)
    assert_same(skipped, tmp_path / "twin")


def rewind_to_the_beginning(folder):
    """A spike before the first due checkpoint, one of each of the next steps, and the bound."""
    train_through(folder / "early", stage_of(steps=8, warmup_steps=4), (6,))
    give_decisions(folder / "early", folder / "twin")
    train_through(folder / "twin", stage_of(on_spike="report", steps=8), (6,))
    with pytest.raises(TrainingError, match=r"training\.spikes\.max_rewinds") as caught:
        train_through(folder / "often", stage_of(max_rewinds=1))
    assert "step 15: found a loss of" in str(caught.value)
    last = folder / "early" / "pretrain" / "skips.jsonl"
    last.rename(last.with_suffix(".gone"))
    with pytest.raises(CheckpointError, match=r"skips\.jsonl: found 0 decisions"):
        train_through(folder / "early", stage_of(steps=9), (6,))


@pytest.mark.seams
def test_the_beginning_the_bound_and_a_lost_file(tmp_path):
    run_ranks(tmp_path / "ranks", 1, rewind_to_the_beginning, tmp_path)
    early, twin = tmp_path / "early", tmp_path / "twin"
    assert [event["step"] for event in events(early, "rewound")] == [0]
    ours, theirs = tensors(early, 8), tensors(twin, 8)
    assert all(tensor.equal(theirs[name]) for name, tensor in ours.items())
    assert exact_steps(early) == exact_steps(twin)
