"""A step whose loss or gradients are not finite: what is told of it is what was done."""

import json
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist

from distrain.errors import TrainingError
from distrain.runs.json_lines import read_records
from distrain.train.agreed import agree
from distrain.train.loop import Clock, record, train, train_step
from tests.distrain.parallel.probe import copy_of, everywhere, same_boxes
from tests.distrain.train.synthetic import SpoiledTask, make_run, make_stage
from tests.ranks import run_ranks

BAD_STEP, STEPS = 2, 4
ENGINES: dict[str, dict[str, object]] = {
    "ddp": {"strategy": "ddp"},
    "fsdp": {"strategy": "fsdp"},
    **{f"zero{stage}": {"strategy": "deepspeed", "zero_stage": stage} for stage in (1, 2, 3)},
}
FAULTS = ("loss", "gradient")


def spoiled(task, fault):
    """Make the loss of the last rank infinite and leave its gradients, or its gradients NaN."""

    def spoil(loss):
        if fault == "gradient":
            loss.register_hook(lambda gradient: gradient * float("nan"))
        return loss + float("inf") if fault == "loss" else loss

    return SpoiledTask(task, spoil)


def make_steps(folder, cases):
    """Make a few steps, one of them with a fault, and note which of them changed anything."""
    is_last = not dist.is_initialized() or dist.get_rank() == dist.get_world_size() - 1
    for name, stage, fault in cases:
        run = make_run(folder / name, stage)
        bad = replace(run, task=spoiled(run.task, fault)) if is_last else run
        progress, changed, told = run.restore(), [], []
        batches = run.loader.batches(0, STEPS)
        for step, batch in enumerate(batches):
            agreed = agree(run, batch)
            before = copy_of(run.engine.state()), run.engine.optimizer_scalars()
            result = train_step(bad if step == BAD_STEP else run, batch, agreed, step)
            same_state = same_boxes(before[0], run.engine.state())
            same_steps = before[1] == run.engine.optimizer_scalars()
            assert same_state == same_steps
            changed.append(not everywhere(same_state))
            told.append(result.applied)
            progress = progress.after(result)
            record(run, progress, result, Clock(), agreed)
        if run.monitor is not None:
            run.monitor.close()
            (folder / f"{name}.json").write_text(json.dumps({"changed": changed, "told": told}))
        run.engine.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nonfinite")
    single = make_stage("single", precision="fp32", max_steps=STEPS)
    torch.set_num_threads(1)
    alone = [(f"single-{fault}", single, fault) for fault in FAULTS]
    run_ranks(folder / "ranks-1", 1, make_steps, folder, alone)
    cases = [
        (
            f"{name}-{fault}",
            make_stage(precision="fp32", max_steps=STEPS, parallelism=parallelism),
            fault,
        )
        for name, parallelism in ENGINES.items()
        for fault in FAULTS
    ]
    run_ranks(folder / "ranks-2", 2, make_steps, folder, cases)
    return folder


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("engine", ["single", *ENGINES])
def test_record_event_and_update_agree(folder, engine, fault):
    name = f"{engine}-{fault}"
    expected = [step != BAD_STEP for step in range(STEPS)]
    done = json.loads((folder / f"{name}.json").read_text())
    records = list(read_records(folder / name / "pretrain" / "metrics.jsonl"))
    events = [e for e in read_records(folder / name / "events.jsonl") if e["event"] == "nonfinite"]

    assert done["changed"] == expected
    assert done["told"] == expected
    assert [r["train/applied"] for r in records] == expected
    assert [event["step"] for event in events] == [BAD_STEP + 1]
    bad, (event,) = records[BAD_STEP], events
    assert (bad["train/loss"] is None) == (fault == "loss")
    assert (event["loss"] == "inf") == (fault == "loss")
    assert fault == "loss" or bad["train/grad_norm"] is None


def train_to_its_end(folder):
    """Train twice, the second time from a checkpoint, with losses that are NaN after step 2."""
    stage = make_stage(
        "fsdp",
        max_steps=12,
        micro_batch_size=4,  # one a step on two ranks
        training={"max_skipped_steps": 5},
        checkpoint={"save_steps": 4, "async_save": False},
    )
    for made_before in (0, 4):
        run = make_run(folder, stage)
        sound = iter([True] * (2 - made_before) + [False] * 10)

        def poisoned(loss, *, sound=sound):
            return loss * (1.0 if next(sound) else float("nan"))

        with pytest.raises(TrainingError, match=r"^steps 3 to 7: .*max_skipped_steps"):
            train(replace(run, task=SpoiledTask(run.task, poisoned)))
        run.host.barrier()
        if run.monitor is not None:
            run.monitor.close()
        run.engine.close()


def test_steps_that_are_never_applied_end_the_stage_and_are_counted_over_a_restart(tmp_path):
    run_ranks(tmp_path / "ranks", 2, train_to_its_end, tmp_path)
    records = list(read_records(tmp_path / "pretrain" / "metrics.jsonl"))
    steps = [record for record in records if "train/loss" in record]
    assert [r["train/applied"] for r in steps] == [True] * 2 + [False] * 5
    resumed = [e for e in read_records(tmp_path / "events.jsonl") if e["event"] == "resumed"]
    assert [event["step"] for event in resumed] == [4]
