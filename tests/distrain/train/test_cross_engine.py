"""A checkpoint of one engine and number of ranks goes on under another, bit for bit."""

from dataclasses import replace

from distrain.checkpoint.dcp import read_full
from distrain.parallel.global_tensor import gather_full
from distrain.train.loop import train
from tests.distrain.train.synthetic import make_run, make_stage
from tests.ranks import run_ranks

FSDP = make_stage(
    "fsdp", precision="fp32", max_steps=6, micro_batch_size=1, checkpoint={"keep_last": 9}
)
ZERO3 = make_stage(
    precision="fp32",
    max_steps=6,
    parallelism={"strategy": "deepspeed"},
    checkpoint={"keep_last": 9},
)


def train_under_fsdp(folder):
    train(make_run(folder, FSDP))


def hand_over(folder, stage, expected_step):
    """Restore under another engine, compare with the files, and save what the engine holds."""
    run = make_run(folder, stage)
    progress = run.restore()
    assert progress.step == expected_step
    path = folder / "pretrain" / "checkpoints" / f"step_{expected_step:06}"
    saved = read_full(path, prefix="")
    held = gather_full(run.engine.state())
    assert held.keys() == saved.keys()
    assert any(name.startswith("exp_avg/") for name in held)
    for name, tensor in saved.items():
        assert tensor.equal(held[name]), name
    run.save_and_wait(replace(progress, step=expected_step + 1))


def test_fsdp_on_four_ranks_to_zero3_on_two_and_back(tmp_path):
    folder = tmp_path / "run"
    run_ranks(tmp_path / "first", 4, train_under_fsdp, folder)
    run_ranks(tmp_path / "there", 2, hand_over, folder, ZERO3, 6)
    run_ranks(tmp_path / "back", 4, hand_over, folder, FSDP, 7)
    checkpoints = folder / "pretrain" / "checkpoints"
    original, returned = (
        read_full(checkpoints / name, prefix="") for name in ("step_000006", "step_000008")
    )
    for name, tensor in original.items():
        assert tensor.equal(returned[name]), name
