"""Logging of the runtime's processes: the rank in every record, one voice for the good news.

Set up by the process entry, never by an import.
"""

import logging
import sys

TIME_FORMAT = "%H:%M:%S"
LOGGER = "distrain"
QUIET = ("bitsandbytes.backends",)
"""Warn, whenever peft imports them, of a kernel on the hub that nobody has asked for."""


class RankFilter(logging.Filter):
    """Stamp records with the rank; let information pass on rank 0, warnings on every rank."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.rank = rank

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether this rank shows ``record``."""
        record.rank = self.rank
        return self.rank == 0 or record.levelno >= logging.WARNING


class RankFormatter(logging.Formatter):
    """Information reads as ``12:31:07 text``; anything else also names its level and rank."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(message)s", TIME_FORMAT)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  (logging's name)
        """Put time, and for all but information level and rank, before the message."""
        if record.levelno == logging.INFO:
            return f"{record.asctime} {record.message}"
        level = record.levelname.lower()
        rank = getattr(record, "rank", "?")
        return f"{record.asctime} {level} [rank {rank}] {record.message}"


def configure_logging(rank: int, level: int | str = logging.INFO) -> None:
    """Send log records of this process to stderr; the process entry calls it once.

    Other libraries are heard from ``WARNING`` on, ours from ``level`` on. A second call replaces
    what the first one set up.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(RankFilter(rank))
    handler.setFormatter(RankFormatter())
    root = logging.getLogger()
    for old in root.handlers[:]:
        if isinstance(old.formatter, RankFormatter):
            root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger(LOGGER).setLevel(level)
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.ERROR)
