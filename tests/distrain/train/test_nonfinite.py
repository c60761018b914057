"""A step whose loss or gradients are not finite: what is told of it is what was done."""

import json
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist

from distrain.runs.records import read_records
from distrain.train.loop import Clock, record, train_step
from tests.distrain.parallel.probe import copy_of, everywhere, same_boxes
from tests.distrain.train.synthetic import make_run, make_stage
from tests.ranks import run_ranks

BAD_STEP, STEPS = 2, 4
ENGINES: dict[str, dict[str, object]] = {
    "ddp": {"strategy": "ddp"},
    "fsdp": {"strategy": "fsdp"},
    **{f"zero{stage}": {"strategy": "deepspeed", "zero_stage": stage} for stage in (1, 2, 3)},
}
FAULTS = ("loss", "gradient")


def spoiled(loss_of, fault):
    """Make the loss of the last rank infinite and leave its gradients, or its gradients NaN."""

    def summed_loss(logits, targets):
        if fault == "gradient":
            logits.register_hook(lambda gradient: gradient * float("nan"))
        loss = loss_of(logits, targets)
        return loss + float("inf") if fault == "loss" else loss

    return summed_loss


def make_steps(folder, cases):
    """Make a few steps, one of them with a fault, and note which of them changed anything."""
    is_last = not dist.is_initialized() or dist.get_rank() == dist.get_world_size() - 1
    for name, stage, fault in cases:
        run = make_run(folder / name, stage)
        bad = replace(run, loss=spoiled(run.loss, fault)) if is_last else run
        progress, changed, told = run.restore(), [], []
        batches = run.loader.batches(0, STEPS)
        for step, batch in enumerate(batches):
            before = copy_of(run.engine.state()), run.engine.optimizer_steps()
            result = train_step(bad if step == BAD_STEP else run, batch, step)
            same_state = same_boxes(before[0], run.engine.state())
            same_steps = before[1] == run.engine.optimizer_steps()
            assert same_state == same_steps
            changed.append(not everywhere(same_state))
            told.append(result.update.applied)
            progress = progress.after(result)
            record(run, progress, result, batch, Clock())
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
