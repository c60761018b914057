"""What every rank of a node needs alike, made by one of them; the others map what it wrote.

Its arrays lie in memory once a node: they are written to a file that all map, and that is removed
as soon as they have. What a rank leaves that is killed in between, the next start there removes.
"""

import io
import logging
import mmap
import os
import pickle
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from distrain.errors import DistrainError
from distrain.fault.page import page
from distrain.parallel.collectives import HostGroup
from distrain.parallel.process_group import local_rank, local_world_size
from distrain.runs.owned_folder import OwnedFolder

log = logging.getLogger(__name__)

T = TypeVar("T")

PREFIX = "distrain-node-"
CONTENT, ARRAYS, MADE, TAKEN = "content", "arrays", "made", "taken"
PAUSE_S = 0.05
PATIENCE_S = 60.0
"""Of the rank that made it, for the others to map it: by then they have waited for it."""
ALIGNMENT = 64


def once_a_node(host: HostGroup, make: Callable[[], T]) -> T:
    """Call ``make`` on the first rank of each node; the others get an equal value. Collective.

    The value is the same on every node, because ``make`` is deterministic; it is pickled.

    Raises:
        DistrainError: On all ranks of a node, what ``make`` raised there.
    """
    is_first = local_rank() == 0
    own = _new_folder() if is_first and local_world_size() > 1 else None
    folder = host.gather(None if own is None else own.path)[host.rank - local_rank()]
    if not isinstance(folder, Path):  # alone on its node; or nothing can be written there
        return make()
    if own is None:
        taken: T = _take(folder) if _is_made(folder) else make()
        return taken
    try:
        outcome = _outcome_of(make)
        _share(outcome, folder)
    finally:
        own.remove()  # which tells the others, if nothing was made
    if isinstance(outcome, DistrainError):
        raise outcome
    return outcome


def _outcome_of(make: Callable[[], T]) -> T | DistrainError:
    try:
        return make()
    except DistrainError as error:
        return error


def _share(value: object, folder: Path) -> None:
    try:
        _write(value, folder)
        _wait_for_others(folder)
    except OSError as error:  # as of a full disk: then each makes its own
        log.warning("%s: nothing can be kept there for the other ranks: %s", folder, error)


def _new_folder() -> OwnedFolder | None:
    try:
        return OwnedFolder(Path(tempfile.gettempdir()), PREFIX)
    except OSError:
        return None


def _write(value: object, folder: Path) -> None:
    """Write a value; its arrays apart, each at a multiple of a cache line."""
    sizes: list[int] = []
    content = io.BytesIO()
    with (folder / ARRAYS).open("wb") as file:

        def keep(buffer: pickle.PickleBuffer) -> None:
            raw = buffer.raw()
            sizes.append(raw.nbytes)
            file.write(raw)
            file.write(bytes(-raw.nbytes % ALIGNMENT))

        pickle.Pickler(content, protocol=5, buffer_callback=keep).dump(value)
    (folder / CONTENT).write_bytes(pickle.dumps(sizes) + content.getvalue())
    (folder / MADE).touch()  # last: whoever sees it finds the rest whole


def _is_made(folder: Path) -> bool:
    """Wait until the node's first rank has made it; false if it gave up."""
    # No collective: the node's first rank, which works meanwhile, does not come by here.
    page.wait_begins(is_collective=False)
    while folder.is_dir() and not (folder / MADE).exists():
        time.sleep(PAUSE_S)
    page.wait_ends()
    return folder.is_dir()


def _take(folder: Path) -> Any:  # noqa: ANN401  (what was written)
    with (folder / CONTENT).open("rb") as stream:
        sizes = pickle.load(stream)
        loader = pickle.Unpickler(stream, buffers=_mapped(folder / ARRAYS, sizes))
        value = loader.load()
    (folder / f"{TAKEN}{local_rank()}").touch()
    if isinstance(value, DistrainError):
        raise value
    return value


def _mapped(file: Path, sizes: list[int]) -> list[memoryview]:
    """Map the arrays, each of its size in bytes; they may be written to, which no other sees."""
    if not any(sizes):
        return [memoryview(bytearray()) for _ in sizes]
    with file.open("rb") as stream:
        whole = memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY))
    parts, start = [], 0
    for size in sizes:
        parts.append(whole[start : start + size])
        start += size + -size % ALIGNMENT
    return parts


def _wait_for_others(folder: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    others = local_world_size() - 1
    while sum(name.startswith(TAKEN) for name in os.listdir(folder)) < others:  # noqa: PTH208
        if time.monotonic() > deadline:
            return  # one of them is gone, and will be missed in the next collective
        time.sleep(PAUSE_S)
