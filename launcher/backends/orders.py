"""What each of several nodes starts: ``nodes.json``."""

from dataclasses import asdict, dataclass
from typing import Any, Self

from distrain.runs.folder import NodeFiles
from distrain.runs.records import read_json, write_json

START_ID = "@start@"
"""Stands in the command of a stage where the id of its start belongs."""


@dataclass(frozen=True)
class StageOrders:
    """What each node starts for a stage."""

    name: str
    nodes: int
    """1: the first node alone."""
    world_size: int
    argv: tuple[str, ...]
    """With ``START_ID`` in it if there is a rendezvous."""
    env: dict[str, str]

    def command(self, start_id: str) -> list[str]:
        """Return the command of one start."""
        return [word.replace(START_ID, start_id) for word in self.argv]


@dataclass(frozen=True)
class Orders:
    """``nodes.json``: all that a node must know to take part in a run."""

    nodes: int
    max_restarts: int
    stages: tuple[StageOrders, ...]

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
        return cls(found["nodes"], found["max_restarts"], tuple(stages))

    def stage(self, name: str) -> StageOrders:
        """Return those of one stage."""
        return next(stage for stage in self.stages if stage.name == name)
