"""What distrain asks of Slurm: queue a script, look at jobs, cancel jobs.

All of it goes through one replaceable function that runs a command. No accounting is needed: a
stage's own record says how it ended, Slurm only says what it is waiting for.
"""

import os
import re
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from distrain.errors import SchedulerError

COMMAND_TIMEOUT_S = 60.0
LIVE_STATES = frozenset({
    "PENDING", "RUNNING", "CONFIGURING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING",
    "STAGE_OUT", "RESIZING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "PREEMPTED",
})  # fmt: skip
"""A job in one of these may still run."""

QUEUE_FORMAT = "%F|%T|%r|%N"
"""Of squeue: id of the job or array, state, reason, nodes."""
UNKNOWN_JOB = re.compile(r"invalid job id|not found", re.IGNORECASE)

REASONS: Mapping[str, str] = {
    "Priority": "jobs with a higher priority go first",
    "Resources": "no free nodes yet; it is at the head of the queue",
    "Dependency": "for an earlier stage",
    "DependencyNeverSatisfied": "never: an earlier stage did not finish",
    "BeginTime": "for its start time, shortly after a requeue",
    "Cleaning": "for its last start to be cleaned up",
    "JobHeldUser": "held by a user; release it with `scontrol release`",
    "JobHeldAdmin": "held by an administrator",
    "JobHoldMaxRequeue": "held: it was requeued too often",
    "ReqNodeNotAvail": "for a node that is down, drained or reserved",
    "Nodes_required_for_job_are_DOWN,_DRAINED_or_reserved_for_jobs_in_higher_priority_partitions": (
        "for nodes that are down, drained or reserved"
    ),
    "NodeDown": "for a node that is down",
    "PartitionDown": "for the partition, which is down",
    "PartitionInactive": "for the partition, which is inactive",
    "PartitionNodeLimit": "never: more nodes than the partition allows",
    "PartitionTimeLimit": "never: a longer time limit than the partition allows",
    "Reservation": "for its reservation",
    "Licenses": "for a licence",
    "QOSGrpGRES": "for your group's GPU limit",
    "QOSGrpCpuLimit": "for your group's CPU limit",
    "QOSGrpNodeLimit": "for your group's node limit",
    "QOSMaxGRESPerUser": "for your own GPU limit",
    "QOSMaxJobsPerUserLimit": "for your own limit of running jobs",
    "QOSMaxNodePerUserLimit": "for your own node limit",
    "QOSMaxWallDurationPerJobLimit": "never: a longer time limit than the QOS allows",
    "AssocGrpGRES": "for your account's GPU limit",
    "AssocGrpCpuLimit": "for your account's CPU limit",
    "AssocMaxJobsLimit": "for your account's limit of running jobs",
    "InvalidAccount": "never: the account is not valid",
    "InvalidQOS": "never: the QOS is not valid",
}
"""Slurm's reasons in plain words, to be read after "waits"."""


@dataclass(frozen=True)
class Answer:
    """What a command said."""

    code: int
    out: str
    err: str


SBATCH_PREFIX = "SBATCH_"

SETTINGS: Mapping[str, str] = {
    "ACCOUNT": "account",
    "PARTITION": "partition",
    "QOS": "qos",
    "TIMELIMIT": "time_limit",
    "EXCLUSIVE": "exclusive",
    "GPUS": "gpus_per_node",
    "GPUS_PER_NODE": "gpus_per_node",
    "GRES": "gpus_per_node",
}
"""Variable of sbatch without its prefix -> the key of the site file that says the same."""

Run = Callable[[Sequence[str]], Answer]


@dataclass(frozen=True)
class JobInfo:
    """A job as Slurm sees it."""

    state: str
    """Slurm's word, such as ``PENDING``."""
    reason: str
    """Slurm's word for what a job waits for or ended of; empty if there is none."""
    restarts: int
    nodes: str
    """Node list in Slurm's short form; empty while it waits."""
    script: str
    """Path of the submitted script."""

    @property
    def is_live(self) -> bool:
        """Whether it may still run."""
        return self.state in LIVE_STATES

    @property
    def note(self) -> str:
        """What it waits for, in plain words with Slurm's own; empty if it does not wait."""
        if self.state != "PENDING" or not self.reason:
            return ""
        words = REASONS.get(self.reason)
        return f"waits {words} ({self.reason})" if words else f"waits ({self.reason})"


def run_command(argv: Sequence[str]) -> Answer:
    """Run a Slurm command.

    Raises:
        SchedulerError: The command is not there, or does not answer in time.
    """
    # Within another job, its SLURM_NNODES and the like would be taken for wishes of the new one;
    # and sbatch lets SBATCH_* override what the script says.
    env = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("SLURM_", SBATCH_PREFIX)) or name == "SLURM_CONF"
    }
    try:
        done = subprocess.run(
            argv, env=env, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False
        )
    except FileNotFoundError as error:
        raise no_slurm(argv[0]) from error
    except subprocess.TimeoutExpired as error:
        raise _no_answer(argv[0], f"no answer within {COMMAND_TIMEOUT_S:.0f} s") from error
    return Answer(done.returncode, done.stdout, done.stderr)


def ignored_variables(environment: Mapping[str, str]) -> list[str]:
    """Name the variables of sbatch that are set, each with what to write instead.

    They would override the ``#SBATCH`` lines, and so part the job from its plan: from its GPUs, its
    requeue, the log that ``distrain logs`` reads. sbatch is called without them.
    """
    notes = []
    for name in sorted(environment):
        if not name.startswith(SBATCH_PREFIX):
            continue
        key = SETTINGS.get(name.removeprefix(SBATCH_PREFIX))
        instead = f"set {key} in the site file" if key else "no setting takes its place"
        notes.append(f"{name} is ignored, the script alone says what a job asks for; {instead}")
    return notes


class Slurm:
    """Slurm's commands.

    Args:
        run: Runs one; replaced in tests.
    """

    def __init__(self, run: Run = run_command) -> None:
        self._run = run

    def submit(self, script: Path, after: Sequence[str] = (), behind: str | None = None) -> str:
        """Queue a script behind other jobs and return its id.

        It starts when all jobs ``after`` succeeded and the job or array ``behind`` ended in any
        way; it is cancelled when one of ``after`` did not succeed.

        Raises:
            SchedulerError: Slurm refused, or is not there.
        """
        argv = ["sbatch", "--parsable"]
        conditions = [f"afterok:{':'.join(after)}"] if after else []
        conditions += [f"afterany:{behind}"] if behind is not None else []
        if conditions:
            argv += [f"--dependency={','.join(conditions)}", "--kill-on-invalid-dep=yes"]
        answer = self._run([*argv, str(script)])
        job = answer.out.strip().partition(";")[0]  # "id;cluster" in a federation
        if answer.code != 0 or not job.isdigit():
            raise SchedulerError(
                str(script),
                f"that sbatch refused it: {_words(answer)}",
                "a job id",
                _remedy(answer),
            )
        return job

    def job_states(self, ids: Iterable[str]) -> dict[str, JobInfo]:
        """Return what Slurm knows of jobs; one that it has forgotten is left out.

        An array is known by the task that is furthest from its end.

        Raises:
            SchedulerError: Slurm did not answer; that says nothing about the jobs.
        """
        found: dict[str, JobInfo] = {}
        for job in ids:
            answer = self._run(["scontrol", "show", "job", "--oneliner", job])
            if answer.code == 0:
                tasks = [parse_job(line) for line in answer.out.splitlines() if line.strip()]
                found[job] = min(tasks, key=_distance_to_end, default=parse_job(""))
            elif not UNKNOWN_JOB.search(answer.err):
                raise _no_answer("scontrol show job", _words(answer))
        return found

    def queue(self) -> dict[str, JobInfo]:
        """Return this user's queued and running jobs and arrays by id, with one question.

        Raises:
            SchedulerError: Slurm did not answer.
        """
        answer = self._run(["squeue", "--noheader", "--me", f"--format={QUEUE_FORMAT}"])
        if answer.code != 0:
            raise _no_answer("squeue", _words(answer))
        tasks: dict[str, list[JobInfo]] = {}
        for line in answer.out.splitlines():
            job, state, reason, nodes = (*line.split("|"), "", "", "")[:4]
            info = JobInfo(state, "" if reason == "None" else reason, 0, nodes, "")
            tasks.setdefault(job.strip(), []).append(info)
        return {job: min(of, key=_distance_to_end) for job, of in tasks.items() if job}

    def live_jobs(self, name: str) -> list[str]:
        """Return the ids of this user's queued and running jobs and arrays of that name.

        Raises:
            SchedulerError: Slurm did not answer.
        """
        argv = ["squeue", "--noheader", "--me", f"--name={name}", "--format=%F"]
        answer = self._run(argv)
        if answer.code != 0:
            raise _no_answer("squeue", _words(answer))
        return list(dict.fromkeys(answer.out.split()))  # once for each task of an array

    def cancel(self, ids: Sequence[str]) -> None:
        """Cancel jobs; those that have ended already are left as they are.

        Raises:
            SchedulerError: Slurm did not do it.
        """
        if not ids:
            return
        answer = self._run(["scancel", *ids])
        if answer.code != 0 and not UNKNOWN_JOB.search(answer.err):
            raise SchedulerError(
                f"jobs {', '.join(ids)}",
                f"that scancel failed: {_words(answer)}",
                "cancelled jobs",
                f"Cancel them by hand: scancel {' '.join(ids)}.",
            )


def parse_job(line: str) -> JobInfo:
    """Read one line of ``scontrol show job --oneliner``."""
    reason = _field(line, "Reason").replace(" ", "_")
    nodes = _field(line, "NodeList")
    script = re.search(r" Command=(.*?) WorkDir=", line)  # a path may hold spaces
    return JobInfo(
        state=_field(line, "JobState"),
        reason="" if reason == "None" else reason,
        restarts=int(_field(line, "Restarts") or 0),
        nodes="" if nodes == "(null)" else nodes,
        script=script[1] if script else "",
    )


def _distance_to_end(info: JobInfo) -> int:
    """Order the tasks of an array: running, waiting, ending, ended."""
    if info.state == "RUNNING":
        return 0
    if not info.is_live:
        return 3
    return 2 if info.state == "COMPLETING" else 1


def _field(line: str, name: str) -> str:
    match = re.search(rf"(?:^|\s){name}=(\S*)", line)
    return match[1] if match else ""


def _words(answer: Answer) -> str:
    return " ".join((answer.err or answer.out).split()) or f"exit code {answer.code}, no message"


def no_slurm(command: str) -> SchedulerError:
    """Return the error for a command of Slurm that is not on this machine."""
    return SchedulerError(
        "launch.backend=slurm",
        f"no command {command} on PATH",
        "Slurm's commands sbatch, squeue, scontrol and scancel",
        "Run this on a login node of the cluster (`module load slurm` on some), or set "
        "launch.backend=local.",
    )


def _no_answer(command: str, found: str) -> SchedulerError:
    return SchedulerError(
        command,
        found,
        "an answer of the Slurm controller",
        "Try `scontrol ping`, and again when it answers; jobs in the queue are not affected.",
    )


def _remedy(answer: Answer) -> str:
    words = answer.err.lower()
    for needle, remedy in _REFUSALS.items():
        if needle in words:
            return remedy
    return "Change what it names in the site file or in launch.*, then submit again."


_REFUSALS = {
    "partition name": "Set the site file's partition to one that `sinfo` lists.",
    "account": "Set account, partition and qos of the site file to a combination that "
    "`sacctmgr show associations user=$USER` lists.",
    "qos": "Set the site file's qos to one that `sacctmgr show qos` lists.",
    "node configuration": "Ask for what a node has: compare launch.nodes, "
    "launch.processes_per_node, and gpus_per_node and cpus_per_task of the site file, with "
    "`sinfo -o '%P %D %c %G'`.",
    "array": "Set launch.prepare_tasks to at most what `scontrol show config` has as MaxArraySize.",
    "node count": "Set launch.nodes to at most what `sinfo` lists for the partition.",
    "time limit": "Set launch.time_limit to at most what `sinfo -o '%P %l'` lists.",
    "unable to contact": "Try `scontrol ping`, and again when it answers.",
    "dns srv": "Set SLURM_CONF to the cluster's slurm.conf, or run this on a login node.",
}
"""Part of sbatch's message -> what to do about it."""
