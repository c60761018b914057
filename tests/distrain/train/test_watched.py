"""What is best by one figure is nothing to compare another figure with."""

import json

from distrain.config.best import EarlyStopping, KeepBest
from distrain.train.loop import train
from tests.distrain.train.synthetic import make_run, make_stage
from tests.distrain.train.test_resume import close, yield_at
from tests.ranks import run_ranks

LOSS = KeepBest()
ACCURACY = KeepBest(metric="accuracy", mode="max")


def stage_of(keep_best, metric):
    return make_stage(
        max_steps=8,
        training={"early_stopping": EarlyStopping(metric=metric, patience=50).model_dump()},
        checkpoint={"keep_best": keep_best.model_dump(), "keep_last": 1, "save_steps": 50},
        eval={"eval_steps": 2},
    )


def lives_of(folder):
    """Five steps that watch the loss, then three that watch what cannot be compared with it."""
    run = make_run(folder, stage_of(LOSS, "loss"))
    yield_at(run, folder, 5)
    (folder / "control" / "yield").unlink()
    close(run)
    run = make_run(folder, stage_of(KeepBest(metric="loss"), "loss"))  # the control: it is the same
    same = run.restore()
    close(run)
    assert same.best_step == 4
    assert same.best_value is not None
    assert same.best_value == same.best_watched
    assert same.best_value < 6
    run = make_run(folder, stage_of(ACCURACY, "perplexity"))
    resumed, (after, _) = run.restore(), train(run)
    close(run)
    # A loss of four would stand above each share of right tokens, and below each perplexity.
    assert (resumed.best_step, resumed.best_value, resumed.best_watched) == (None, None, None)
    assert after.best_step in {6, 8}
    assert after.best_value is not None
    assert 0 <= after.best_value < 1
    assert after.best_watched is not None
    assert after.best_watched > 10
    (folder / "best.json").write_text(json.dumps(after.best_step))


def test_another_figure_begins_anew(tmp_path):
    run_ranks(tmp_path / "ranks", 1, lives_of, tmp_path)
    best = json.loads((tmp_path / "best.json").read_text())
    kept = sorted(path.name for path in (tmp_path / "pretrain/checkpoints").iterdir())
    assert kept == sorted({f"step_{best:06d}", "step_000008"})
