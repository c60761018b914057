"""Early stopping ends the loop, and a stage that ended so has nothing left to do."""

from distrain.fault.wishes import Wish
from distrain.train.loop import train
from tests.distrain.train.synthetic import make_run, make_stage
from tests.ranks import run_ranks

STAGE = make_stage(
    max_steps=40,
    training={"early_stopping": {"patience": 2, "min_delta": 9.0}},
    eval={"eval_steps": 3},
)


def train_twice(folder):
    for _ in range(2):
        run = make_run(folder, STAGE)
        progress, wish = train(run)
        assert wish is Wish.NONE
        # no measurement beats the first one by nine nats: the second in vain is that after step 6
        assert progress.step == 6
        assert run.monitor is not None
        run.monitor.close()
        run.engine.close()


def test_measurements_in_vain_end_the_run(tmp_path):
    run_ranks(tmp_path / "ranks", 1, train_twice, tmp_path)
    events = (tmp_path / "events.jsonl").read_text()
    assert events.count('"early_stop"') == 1
    assert (tmp_path / "pretrain" / "checkpoints" / "step_000006").exists()
