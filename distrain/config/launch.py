"""Where a recipe runs: the ``launch`` section, and the site file that a cluster's users share."""

import json
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from distrain.config.section import Duration, NameIn, Section, check_limits, format_duration
from distrain.runs.progress_page import CODES
from distrain.runs.strikes import StrikeRules

ENDPOINT = r"^[^\s/]+:[0-9]{1,5}$"
MAX_PORT = 2**16 - 1
ONE_LINE = r"^[^\x00-\x1f\x7f]*$"
VARIABLE_NAME = r"^[A-Za-z_][A-Za-z0-9_]*$"

Line = Annotated[str, Field(pattern=ONE_LINE)]
"""A value that becomes part of one line of a script: a line end in it would begin another."""
VariableName = Annotated[str, Field(pattern=VARIABLE_NAME)]


def check_port(endpoint: str) -> str:
    """Refuse a port that TCP does not have.

    Raises:
        ValueError: It is 0 or above 65535.
    """
    port = int(endpoint.rpartition(":")[2])
    if not 1 <= port <= MAX_PORT:
        raise ValueError(f"port {port}; choose one from 1 to {MAX_PORT}")
    return endpoint


class WatchdogConfig(Section):
    """When ranks that stand still count as hung, and are killed; see docs/reliability.md."""

    enabled: bool = True
    """Whether anybody looks; without it, only timeouts of collectives and of saves end a hang."""
    floor: Annotated[Duration, Field(ge=1)] = 4
    """No limit that is learned is shorter."""
    first: Annotated[Duration, Field(ge=1)] = 1800
    """Of a phase that was not passed often enough to learn from, such as a first step."""
    limits: dict[Annotated[str, NameIn(CODES)], Annotated[Duration, Field(ge=1)]] = Field(
        default_factory=dict
    )
    """By phase, from one mark to the next, in place of what is learned; at least ``floor``. One
    below what the phase takes is not obeyed, and told of."""

    @model_validator(mode="after")
    def _floor_below_others(self) -> Self:
        check_limits(self, "floor", "first")
        for phase, limit in self.limits.items():
            if limit < self.floor:
                raise ValueError(
                    f"limits.{phase} {format_duration(limit)} is below floor "
                    f"{format_duration(self.floor)}, before which no rank is late: lower floor, "
                    "or raise the limit"
                )
        return self

    def to_text(self) -> str:
        """Write it for a supervisor, which reads no recipe; empty: the defaults."""
        if self == WatchdogConfig():
            return ""
        limits = dict(self.limits)
        settings = {"floor_s": self.floor, "first_s": self.first, "limits_s": limits}
        return json.dumps(settings if self.enabled else None)


class LaunchConfig(Section):
    """What to start and where; may differ between two starts of the same run."""

    backend: Literal["local", "torchrun", "slurm"] = "local"
    """``local``: this machine. ``torchrun``: one command a node. ``slurm``: jobs of a queue."""
    nodes: Annotated[int, Field(ge=1)] = 1
    """Machines of a training stage; other stages take one."""
    processes_per_node: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """``auto``: the site's GPUs per node, else the GPUs of this machine, else 1."""
    site: str | None = None
    """Path of the site file; default ``$DISTRAIN_SITE``."""
    time_limit: Annotated[Duration | None, Field(ge=1)] = None
    """Of one job; default: the site's. The run goes on in the next job."""
    grace_period: Annotated[Duration, Field(ge=1)] = 120
    """Save and ask for requeue this long before the limit."""
    max_restarts: Annotated[int, Field(ge=0)] = 3
    """In a row without a new committed step."""
    prepare_tasks: Annotated[int, Field(ge=1)] = 1
    """Of ``slurm``: array tasks that share the input ranges of each prepare stage; 1: one job."""
    watchdog: WatchdogConfig = WatchdogConfig()
    node_checks: Literal["auto", "on", "off"] = "auto"
    """Of ``slurm``: nodes are checked beside each other before a stage begins. ``auto``: those of
    stages that train on several nodes or on GPUs. See docs/slurm.md."""
    strikes: Annotated[int, Field(ge=0)] = StrikeRules.limit
    """Of ``slurm``: of a node, from which on it is left out; 0: none is. See docs/slurm.md."""
    spare_nodes: Annotated[int, Field(ge=0)] = 0
    """Of ``slurm``: further machines of a training stage, checked and ready, that do nothing until
    one of the others is lost. See docs/slurm.md."""
    rendezvous: Annotated[str, Field(pattern=ENDPOINT), AfterValidator(check_port)] | None = None
    """Of ``torchrun`` with several nodes: ``host:port`` of the first node."""


class SiteConfig(Section):
    """A site file: written once per cluster, shared by the group, never part of the recipe."""

    account: Line | None = None
    """Who is charged."""
    partition: Line | None = None
    """Queue; default: the cluster's."""
    qos: Line | None = None
    """Quality of service, where the cluster has several."""
    time_limit: Annotated[Duration, Field(ge=1)] = 3600
    """Of one job, unless the recipe has its own."""
    gpus_per_node: Annotated[int, Field(ge=0)] = 0
    """Of a node of the partition. With ``training.device: auto`` a site with GPUs means CUDA, one
    without the CPU; a stage asks for one GPU a process."""
    cpus_per_task: Annotated[int | None, Field(ge=1)] = None
    """Processors of a node's task; default: the cluster's."""
    exclusive: bool = False
    """Jobs get whole nodes, and so all their GPUs, whatever they ask for."""
    setup: tuple[Line, ...] = ()
    """Shell lines run on every node before the work, such as ``module load cuda``."""
    env: dict[VariableName, Line] = Field(default_factory=dict)
    """Environment variables of the job; never secrets, the script is readable."""
    strikes: Line | None = None
    """Folder in which the strikes against nodes of all runs lie together; it must exist, and be
    writable for whoever submits. Default: each run knows its own alone."""
    python: Line | None = None
    """Interpreter on the nodes; default: the one that submitted."""
