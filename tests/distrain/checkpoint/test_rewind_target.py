"""Whatever retention deletes, a spike of the next step has a checkpoint to lead back to."""

import pytest

from distrain.checkpoint.keeping import KeptCheckpoints
from distrain.checkpoint.layout import Name, committed


def steps_kept(folder, rewind_steps, saved, keep_last=2):
    kept = KeptCheckpoints(folder, keep_last, frozenset())
    kept.rewind_steps = rewind_steps
    for step in saved:
        (folder / str(Name(step))).mkdir(parents=True)
        kept.good.add(Name(step))
        kept.retire(None)
    return [name.step for name in committed(folder)]


@pytest.mark.parametrize(
    ("rewind_steps", "expected"),
    [(None, [15, 20]), (0, [15, 20]), (5, [15, 20]), (6, [10, 15, 20]), (20, [0, 15, 20])],
)
def test_the_newest_before_the_widest_window_stays(tmp_path, rewind_steps, expected):
    assert steps_kept(tmp_path, rewind_steps, (0, 5, 10, 15, 20)) == expected


def test_saves_in_between_push_it_out_no_more_than_due_ones(tmp_path):
    saved = (0, 10, 20, 21, 22, 23)
    assert steps_kept(tmp_path / "with", 5, saved) == [10, 22, 23]
    assert steps_kept(tmp_path / "without", None, saved) == [22, 23]


def test_step_0_is_what_there_is_at_first(tmp_path):
    assert steps_kept(tmp_path, 5, (0, 3, 4), keep_last=1) == [0, 4]
