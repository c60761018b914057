"""Slurm's commands as far as the launcher uses them, over a dictionary of jobs."""

import re
from collections.abc import Sequence
from pathlib import Path

from launcher.backends.slurm.client import Answer


class FakeSlurm:
    """Answers like Slurm 22.05; jobs change only by the test's hand.

    Args:
        refuse: File name of a script that sbatch refuses.
    """

    def __init__(self, refuse: str | None = None) -> None:
        self.refuse = refuse
        self.away = False
        """The controller does not answer."""
        self.asked: list[list[str]] = []
        self.scripts: dict[str, Path] = {}
        self.states: dict[str, str] = {}

    def __call__(self, argv: Sequence[str]) -> Answer:
        self.asked.append(list(argv))
        if self.away:
            return Answer(1, "", "slurm_load_jobs error: Unable to contact slurm controller")
        commands = {
            "sbatch": self._sbatch,
            "squeue": self._squeue,
            "scontrol": self._scontrol,
            "scancel": self._scancel,
        }
        return commands[argv[0]](list(argv))

    def of(self, command: str) -> list[list[str]]:
        """Return the calls of one command."""
        return [argv for argv in self.asked if argv[0] == command]

    def _sbatch(self, argv: list[str]) -> Answer:
        script = Path(argv[-1])
        if script.name == self.refuse:
            return Answer(
                1,
                "",
                "sbatch: error: Batch job submission failed: Invalid partition name specified",
            )
        job = str(100 + len(self.scripts))
        self.scripts[job] = script
        self.states[job] = "PENDING"
        return Answer(0, f"{job}\n", "")

    def _squeue(self, argv: list[str]) -> Answer:
        live = ("PENDING", "RUNNING")
        if not any(a.startswith("--name=") for a in argv):
            states = [(job, state) for job, state in self.states.items() if state in live]
            lines = [f"{job}|{s}|{'Priority' if s == 'PENDING' else 'None'}|" for job, s in states]
            return Answer(0, "\n".join(lines) + "\n", "")
        (name,) = (a.removeprefix("--name=") for a in argv if a.startswith("--name="))
        jobs = [job for job in self.scripts if self.states[job] in live and name == self._name(job)]
        return Answer(0, "\n".join(jobs) + "\n", "")

    def _scontrol(self, argv: list[str]) -> Answer:
        job = argv[-1]
        if job not in self.scripts:
            return Answer(1, "", "slurm_load_jobs error: Invalid job id specified")
        state = self.states[job]
        return Answer(
            0,
            f"JobId={job} JobName=x UserId=me(1) JobState={state} Reason=Priority Restarts=0 "
            f"NodeList=(null) Command={self.scripts[job]} WorkDir=/home/me\n",
            "",
        )

    def _scancel(self, argv: list[str]) -> Answer:
        for job in argv[1:]:
            self.states[job] = "CANCELLED"
        return Answer(0, "", "")

    def _name(self, job: str) -> str:
        match = re.search(r"--job-name=(\S+)", self.scripts[job].read_text())
        assert match is not None
        return match[1]
