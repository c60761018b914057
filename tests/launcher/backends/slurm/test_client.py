"""What is asked of Slurm, and how its answers are read."""

import pytest

from distrain.errors import ExitCode, SchedulerError
from launcher.backends.slurm.client import (
    Answer,
    JobInfo,
    Slurm,
    ignored_variables,
    parse_job,
    run_command,
)
from tests.launcher.backends.slurm.fake_slurm import FakeSlurm

# As Slurm 22.05 wrote it, with a path that holds spaces and an equals sign.
LINE = (
    "JobId=7 JobName=mine.a UserId=root(0) Priority=4294901746 Account=(null) QOS=(null) "
    "JobState=PENDING Reason=QOSGrpGRES Dependency=(null) Requeue=1 Restarts=2 BatchFlag=1 "
    "ExitCode=0:0 Partition=main ReqNodeList=(null) ExcNodeList=(null) NodeList=node[1,3] "
    "BatchHost=node1 NumNodes=2 Command=/data/a b/JobState=x/scripts/a.sbatch "
    "WorkDir=/data/a b StdErr=/data/a b/log Power=\n"
)


def info(state: str = "PENDING", reason: str = "") -> JobInfo:
    return JobInfo(state=state, reason=reason, restarts=0, nodes="", script="")


def test_a_job_line_is_read_whole():
    assert parse_job(LINE) == JobInfo(
        state="PENDING",
        reason="QOSGrpGRES",
        restarts=2,
        nodes="node[1,3]",
        script="/data/a b/JobState=x/scripts/a.sbatch",
    )


def test_a_reason_is_given_in_plain_words_and_in_those_of_slurm():
    assert parse_job(LINE).note == "waits for your group's GPU limit (QOSGrpGRES)"
    assert info(reason="SomethingNew").note == "waits (SomethingNew)"
    assert info(state="RUNNING", reason="None").note == ""


@pytest.mark.parametrize(
    ("state", "live"),
    [("PENDING", True), ("COMPLETING", True), ("COMPLETED", False), ("NODE_FAIL", False)],
)
def test_only_a_job_that_may_still_run_is_live(state, live):
    assert info(state).is_live is live


def test_a_job_is_queued_behind_all_it_needs(tmp_path):
    fake = FakeSlurm()
    script = tmp_path / "a.sbatch"
    assert Slurm(fake).submit(script, ["5", "6"]) == "100"
    assert fake.asked == [
        [
            "sbatch",
            "--parsable",
            "--dependency=afterok:5:6",
            "--kill-on-invalid-dep=yes",
            str(script),
        ]
    ]


def test_a_job_is_queued_behind_the_end_of_another_too(tmp_path):
    fake = FakeSlurm()
    Slurm(fake).submit(tmp_path / "a.sbatch", ["5"], behind="6")
    assert fake.asked[0][2:4] == ["--dependency=afterok:5,afterany:6", "--kill-on-invalid-dep=yes"]


@pytest.mark.parametrize(
    ("states", "state"),
    [
        (["COMPLETED", "RUNNING", "PENDING"], "RUNNING"),
        (["COMPLETED", "COMPLETING", "PENDING"], "PENDING"),
        (["FAILED", "COMPLETING"], "COMPLETING"),
        (["FAILED", "COMPLETED"], "FAILED"),
    ],
)
def test_an_array_is_as_its_task_that_is_furthest_from_its_end(states, state):
    lines = [f"JobId={n} ArrayJobId=7 JobState={s} Reason=None\n" for n, s in enumerate(states)]
    slurm = Slurm(lambda argv: Answer(0, "".join(lines), ""))
    assert slurm.job_states(["7"])["7"].state == state


def test_an_array_is_one_job_of_the_queue():
    slurm = Slurm(lambda argv: Answer(0, "7\n7\n9\n7\n", ""))
    assert slurm.live_jobs("mine.prepare.clean") == ["7", "9"]


def test_the_job_id_of_a_federation_is_read(tmp_path):
    slurm = Slurm(lambda argv: Answer(0, "12;west\n", ""))
    assert slurm.submit(tmp_path / "a.sbatch") == "12"


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        ("Invalid partition name specified", "`sinfo` lists"),
        ("Invalid account or account/partition combination specified", "sacctmgr"),
        ("Requested node configuration is not available", "gpus_per_node"),
        ("Requested time limit is invalid (missing or exceeds some limit)", "launch.time_limit"),
        ("resolve_ctls_from_dns_srv: res_nsearch error: DNS SRV lookup failed", "SLURM_CONF"),
        ("Invalid job array specification", "launch.prepare_tasks"),
        ("Something nobody has seen", "site file"),
    ],
)
def test_a_refusal_says_what_slurm_said_and_what_to_do(words, remedy, tmp_path):
    slurm = Slurm(lambda argv: Answer(1, "", f"sbatch: error: {words}\n"))
    with pytest.raises(SchedulerError) as caught:
        slurm.submit(tmp_path / "a.sbatch")
    assert words in str(caught.value)
    assert remedy in str(caught.value)
    assert caught.value.exit_code is ExitCode.SCHEDULER


def test_a_forgotten_job_is_left_out(tmp_path):
    fake = FakeSlurm()
    job = Slurm(fake).submit(tmp_path / "a.sbatch")
    assert set(Slurm(fake).job_states([job, "99"])) == {job}


def test_a_controller_that_does_not_answer_says_nothing_about_a_job(tmp_path):
    fake = FakeSlurm()
    job = Slurm(fake).submit(tmp_path / "a.sbatch")
    fake.away = True
    with pytest.raises(SchedulerError, match=r"Unable to contact.*not affected"):
        Slurm(fake).job_states([job])
    with pytest.raises(SchedulerError, match="Unable to contact"):
        Slurm(fake).live_jobs("x")


def test_a_job_that_ended_already_can_be_cancelled():
    ended = Slurm(lambda argv: Answer(1, "", "scancel: error: Kill job error: Invalid job id"))
    ended.cancel(["1"])
    refused = Slurm(lambda argv: Answer(1, "", "scancel: error: Access/permission denied"))
    with pytest.raises(SchedulerError, match=r"permission denied.*scancel 1 2\."):
        refused.cancel(["1", "2"])


def test_no_slurm_on_the_path_is_said_with_a_remedy(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SchedulerError) as caught:
        Slurm().submit(tmp_path / "a.sbatch")
    assert "no command sbatch on PATH" in str(caught.value)
    assert "launch.backend=local" in str(caught.value)


def test_a_job_does_not_inherit_the_wishes_of_the_job_it_is_submitted_from(monkeypatch):
    monkeypatch.setenv("SLURM_NNODES", "7")
    monkeypatch.setenv("SBATCH_PARTITION", "other")
    monkeypatch.setenv("SLURM_CONF", "/etc/here")
    answer = run_command(["bash", "-c", 'echo "${SLURM_NNODES-}${SBATCH_PARTITION-}$SLURM_CONF"'])
    assert answer.out == "/etc/here\n"


def test_the_variables_that_sbatch_does_not_get_are_named():
    assert ignored_variables({"SBATCH_RESERVATION": "", "SBATCH_PARTITION": "x", "HOME": "/"}) == [
        "SBATCH_PARTITION is ignored, the script alone says what a job asks for; "
        "set partition in the site file",
        "SBATCH_RESERVATION is ignored, the script alone says what a job asks for; "
        "no setting takes its place",
    ]


def test_the_queue_is_read_with_one_question():
    lines = "7|PENDING|Priority|\n7|RUNNING|None|node[1-2]\n9|PENDING|Dependency|\n"
    queue = Slurm(lambda argv: Answer(0, lines, "")).queue()
    assert (queue["7"].state, queue["7"].nodes, queue["7"].note) == ("RUNNING", "node[1-2]", "")
    assert queue["9"].note == "waits for an earlier stage (Dependency)"
