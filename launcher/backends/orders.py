"""What each of several nodes starts: ``nodes.json``."""

from dataclasses import asdict, dataclass
from typing import Any, Self

from distrain.runs.folder import NodeFiles
from distrain.runs.records import read_json, write_json

START_ID = "@start@"
"""Stands for the id of a start in a command of torchrun's, which older versions have queued."""
SERVER = "distrain.fork_server"
"""Module whose command forks the ranks of a stage."""


@dataclass(frozen=True)
class StageOrders:
    """What each node starts for a stage."""

    name: str
    nodes: int
    """1: the first node alone."""
    world_size: int
    argv: tuple[str, ...]
    """Of the fork server, or of the only process."""
    env: dict[str, str]
    logs: str = ""
    """Folder for the files of ranks."""

    @property
    def is_forked(self) -> bool:
        """Whether ``argv`` starts what forks the ranks."""
        return SERVER in self.argv

    @property
    def processes_per_node(self) -> int:
        """Ranks on each node."""
        return self.world_size // self.nodes

    @property
    def cold_command(self) -> list[str]:
        """Of one rank, where none can be forked."""
        at = self.argv.index(SERVER)
        run, stage, *_ = self.argv[at + 1 :]
        return [*self.argv[:at], "distrain", "stage", run, stage]

    def command(self, start_id: str) -> list[str]:
        """Return the command of one start, where nothing is forked."""
        return [word.replace(START_ID, start_id) for word in self.argv]


@dataclass(frozen=True)
class Orders:
    """``nodes.json``: all that a node must know to take part in a run."""

    nodes: int
    max_restarts: int
    stages: tuple[StageOrders, ...]
    host: str = ""
    """Of the first node, as the others address it."""
    port: int = 0
    """Where ranks meet there; 0: a free one, chosen anew for every start."""
    spares: int | None = None
    """Further nodes, which take the places of those that are lost; ``None``: nobody is replaced."""

    @property
    def members(self) -> range:
        """Numbers of all nodes."""
        return range(self.nodes + (self.spares or 0))

    def write(self, meeting: NodeFiles) -> None:
        """Put them down for the other nodes."""
        write_json(meeting.orders, asdict(self))

    @classmethod
    def read(cls, meeting: NodeFiles) -> Self | None:
        """Return them; ``None`` before the run was started."""
        found: dict[str, Any] | None = read_json(meeting.orders)
        if found is None:
            return None
        stages = (StageOrders(**s | {"argv": tuple(s["argv"])}) for s in found["stages"])
        return cls(**found | {"stages": tuple(stages)})

    def stage(self, name: str) -> StageOrders:
        """Return those of one stage."""
        return next(stage for stage in self.stages if stage.name == name)
