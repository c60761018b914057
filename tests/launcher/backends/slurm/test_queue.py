"""All stages are queued, once each, or none."""

import json

import pytest

from distrain.config.data import DataConfig
from distrain.config.launch import LaunchConfig, SiteConfig
from distrain.config.recipe import PrepareStage, Recipe
from distrain.config.sources import FilesSource
from distrain.errors import RecipeError, SchedulerError
from distrain.runs.folder import RunFolder
from launcher.backends.slurm.backend import recorded_jobs
from launcher.backends.slurm.client import Slurm
from launcher.backends.slurm.queue import submit_run
from launcher.plan import Plan, StagePlan
from tests.launcher.backends.slurm.fake_slurm import FakeSlurm

LAUNCH = LaunchConfig(backend="slurm")
NEEDS: dict[str, tuple[str, ...]] = {
    "prepare": (),
    "left": ("prepare",),
    "right": ("prepare",),
    "last": ("left", "right"),
}


@pytest.fixture
def plan(tmp_path):
    data = DataConfig(source=FilesSource(kind="files", paths=("corpus",)))
    recipe = Recipe(
        name="mine", stages={name: PrepareStage(kind="prepare", data=data) for name in NEEDS}
    )
    stages = tuple(
        StagePlan(name, "prepare", needs, 1, 1, None, None, None) for name, needs in NEEDS.items()
    )
    return Plan(recipe, RunFolder(tmp_path / "mine"), stages)


def submit(plan: Plan, fake: FakeSlurm):
    return submit_run(plan, LAUNCH, SiteConfig(), dry_run=False, slurm=Slurm(fake))


def finish(plan: Plan, fake: FakeSlurm, stage: str) -> None:
    folder = plan.run.stage(stage)
    folder.path.mkdir(exist_ok=True)
    folder.state.write_text('{"state": "done", "attempt": 1, "step": 0, "requeue": false}')
    fake.states[recorded_jobs(plan.run)[stage]] = "COMPLETED"


def dependencies(fake: FakeSlurm) -> list[str]:
    return [argv[2].removeprefix("--dependency=") for argv in fake.of("sbatch") if len(argv) == 5]


def test_each_stage_is_queued_behind_those_it_needs(plan):
    fake = FakeSlurm()
    jobs = submit(plan, fake)
    assert [(job.stage, job.job, job.after) for job in jobs] == [
        ("prepare", "100", ()),
        ("left", "101", ("prepare",)),
        ("right", "102", ("prepare",)),
        ("last", "103", ("left", "right")),
    ]
    assert dependencies(fake) == ["afterok:100", "afterok:100", "afterok:101:102"]
    assert recorded_jobs(plan.run) == {job.stage: job.job for job in jobs}
    assert jobs[0].script.read_text() == jobs[0].text
    events = [json.loads(line) for line in plan.run.events.read_text().splitlines()]
    assert [(e["event"], e["stage"], e["job"]) for e in events] == [
        ("submitted", job.stage, job.job) for job in jobs
    ]


def test_sbatch_finds_the_folder_of_its_log(plan):
    submit(plan, FakeSlurm())
    assert plan.run.stage("last").logs.is_dir()


def test_a_dry_run_writes_nothing_and_needs_no_slurm(plan, monkeypatch):
    monkeypatch.setenv("PATH", "")
    jobs = submit_run(plan, LAUNCH, SiteConfig(), dry_run=True)
    assert [job.job for job in jobs] == [None] * 4
    assert "#SBATCH --job-name=mine.prepare" in jobs[0].text
    assert not plan.run.root.exists()


def test_a_stage_that_is_done_is_neither_queued_nor_waited_for(plan):
    fake = FakeSlurm()
    submit(plan, fake)
    finish(plan, fake, "prepare")
    for job in ("101", "102", "103"):
        fake.states[job] = "CANCELLED"
    jobs = submit(plan, fake)
    assert [(job.stage, job.after) for job in jobs] == [
        ("left", ()),
        ("right", ()),
        ("last", ("left", "right")),
    ]


def test_a_queued_job_is_not_queued_twice(plan):
    fake = FakeSlurm()
    first = submit(plan, fake)
    fake.states["103"] = "CANCELLED"
    second = submit(plan, fake)
    assert [job.is_new for job in second] == [False, False, False, True]
    assert [job.job for job in second[:3]] == [job.job for job in first[:3]]
    assert dependencies(fake)[-1] == "afterok:101:102"


def test_a_job_whose_submitter_died_before_recording_it_is_found(plan):
    fake = FakeSlurm()
    submit(plan, fake)
    recorded = recorded_jobs(plan.run)
    plan.run.jobs.unlink()
    assert [job.is_new for job in submit(plan, fake)] == [False] * 4
    assert recorded_jobs(plan.run) == recorded
    assert len(fake.of("sbatch")) == 4


def test_a_job_of_the_same_name_of_another_run_is_left_alone(plan, tmp_path):
    fake = FakeSlurm()
    submit(plan, fake)
    other = Plan(plan.recipe, RunFolder(tmp_path / "elsewhere" / "mine"), plan.stages)
    assert [job.is_new for job in submit(other, fake)] == [True] * 4


def test_a_refused_job_takes_back_those_before_it(plan):
    fake = FakeSlurm(refuse="right.sbatch")
    with pytest.raises(SchedulerError) as caught:
        submit(plan, fake)
    assert "Invalid partition name specified" in str(caught.value)
    assert str(caught.value).endswith("The jobs queued just before (100, 101) were cancelled.")
    assert fake.of("scancel") == [["scancel", "100", "101"]]
    assert recorded_jobs(plan.run) == {}


def test_a_refused_first_job_leaves_nothing(plan):
    with pytest.raises(SchedulerError, match=r"Nothing was queued\.$"):
        submit(plan, FakeSlurm(refuse="prepare.sbatch"))
    assert not plan.run.jobs.exists()


def test_a_controller_that_does_not_answer_is_asked_for_nothing_else(plan):
    fake = FakeSlurm()
    fake.away = True
    with pytest.raises(SchedulerError, match="Unable to contact"):
        submit(plan, fake)
    assert fake.of("sbatch") == []


def test_an_earlier_wish_to_stop_does_not_stop_a_new_submission(plan):
    plan.run.control.mkdir(parents=True)
    plan.run.stop.touch()
    submit(plan, FakeSlurm())
    assert not plan.run.stop.exists()


def test_a_script_that_cannot_be_written_queues_nothing(plan):
    fake = FakeSlurm()
    launch = LaunchConfig.model_validate({"time_limit": "1m", "grace_period": "2m"})
    with pytest.raises(RecipeError, match=r"launch\.grace_period=30s"):
        submit_run(plan, launch, SiteConfig(), dry_run=False, slurm=Slurm(fake))
    assert fake.asked == []
