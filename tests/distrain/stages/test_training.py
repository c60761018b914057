"""What the training stages share."""

from distrain.fault.page import page
from distrain.runs.progress_page import read_pages
from distrain.stages.training import close as close_stage
from distrain.stages.training import train_to_outcome
from distrain.train.loop import train
from tests.distrain.train.synthetic import make_run, make_stage
from tests.distrain.train.test_resume import close
from tests.ranks import run_ranks


def phase_after(folder, steps):
    (folder / steps.__name__).mkdir()
    page.open(folder / steps.__name__, 0)
    run = make_run(folder / steps.__name__, make_stage(max_steps=2))
    steps(run)
    (found,) = read_pages(folder / steps.__name__)
    page.close()
    close(run)
    return found.main.phase


def train_and_close(run):
    train_to_outcome(run)
    close_stage(run)


def phases(folder):
    assert phase_after(folder, train) == "save", "the control: the loop ends with one"
    assert phase_after(folder, train_to_outcome) == "evaluate"
    assert phase_after(folder, train_and_close) == "ended"


def test_what_a_stage_measures_after_its_steps_is_not_held_to_a_save_s_marks(tmp_path):
    run_ranks(tmp_path / "ranks", 1, phases, tmp_path)
