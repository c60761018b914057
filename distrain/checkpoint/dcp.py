"""A state in the format of torch.distributed.checkpoint (DCP): ordinary tensors, saved in boxes.

Any torch tool reads the result. DCP has no content checks and loads nothing, silently, where no
saved chunk lies; so names, shapes, types and coverage are compared before anything is read.
Nothing but tensors goes through DCP: other values would be unpickled on load.
"""

import math
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint import state_dict_loader
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import SavePlan
from torch.distributed.checkpoint.storage import WriteResult

from distrain.checkpoint.agreement import agree, on_first, os_error_behind
from distrain.checkpoint.entries import BoxLoadPlanner, BoxSavePlanner, Entry, SyncedWriter
from distrain.checkpoint.index import IndexReader
from distrain.errors import CheckpointError
from distrain.parallel.collectives import HostGroup
from distrain.parallel.global_tensor import Box, State, whole

# One process without a process group is a way of running that is meant here.
warnings.filterwarnings("ignore", message="torch.distributed is disabled", category=UserWarning)

UNREADABLE = (CheckpointException, OSError, ValueError, EOFError, pickle.UnpicklingError)


def save_entries(folder: Path, state: State, host: HostGroup) -> None:
    """Write a state into ``folder``, one file a rank and DCP's index last. Collective.

    The steps are those of DCP's ``save``. Its own exchange is reached by a rank only if nothing
    went wrong before it; here all ranks agree after each step.

    Args:
        folder: Holds no checkpoint yet.
        state: This rank's part.
        host: A group that nothing else uses meanwhile.

    Raises:
        FailedError: On every rank when one fails.
    """
    planner, writer = BoxSavePlanner(), SyncedWriter(folder)
    is_first = host.rank == 0

    def plan() -> SavePlan:
        entries = {name: Entry(entry) for name, entry in state.items()}
        planner.set_up_planner(entries, writer.storage_meta(), is_first)
        writer.set_up_storage_writer(is_first)
        return writer.prepare_local_plan(planner.create_local_plan())

    plans = agree(host, plan)

    indexes: list[Metadata] = []

    def write() -> list[WriteResult]:
        # Every rank joins the plans of all: the same everywhere, and nothing is sent back.
        joined, metadata = planner.create_global_plan(plans)
        indexes.append(metadata)
        own = planner.finish_plan(writer.prepare_global_plan(joined)[host.rank])
        results: list[WriteResult] = writer.write_data(own, planner).wait()
        return results

    written = agree(host, write)
    on_first(host, lambda: writer.finish(indexes[0], written))


def load_entries(
    folder: Path, state: State, group: dist.ProcessGroup | None, *, partial: bool = False
) -> None:
    """Fill the boxes of ``state`` from a checkpoint of any number of ranks. Collective.

    Nothing is read unless everything fits.

    Args:
        folder: A verified checkpoint.
        state: This rank's part, written in place.
        group: A gloo group; ``None``: this process alone.
        partial: Let the checkpoint hold more entries than ``state``.

    Raises:
        CheckpointError: On every rank: it is that of another model, or cannot be read.
    """
    try:
        mismatches = find_mismatches(read_metadata(folder), state, partial=partial)
    except CheckpointError as error:
        mismatches = [error.found]  # the other ranks must hear of it before this one leaves
    if _any_rank(bool(mismatches), group):
        raise CheckpointError(
            str(folder),
            "; ".join(mismatches) or "what does not fit another rank's part of the model",
            "the entries of this model and optimizer",
            "Use the recipe that made this checkpoint, or start a new run.",
        )
    fill_boxes(folder, state, IndexReader(folder), group)


def fill_boxes(
    folder: Path, state: State, reader: FileSystemReader, group: dist.ProcessGroup | None
) -> None:
    """Read what is known to fit; the arguments are those of ``load_entries``.

    Raises:
        CheckpointError: The files cannot be read.
    """
    entries = {name: Entry(entry) for name, entry in state.items()}
    _reading(
        folder,
        lambda: state_dict_loader.load(
            entries,
            storage_reader=reader,
            planner=BoxLoadPlanner(),
            process_group=group,
            no_dist=group is None,
        ),
    )


def read_full(folder: Path, prefix: str = "model/") -> dict[str, Tensor]:
    """Read whole tensors in this process alone, with or without a process group.

    Returns:
        The entries whose name begins with ``prefix``, named without it, on the CPU.

    Raises:
        CheckpointError: There is none, one is incomplete, or the files cannot be read.
    """
    state = read_whole(folder, (prefix,))
    return {name.removeprefix(prefix): entry.boxes[0].tensor for name, entry in state.items()}


def read_whole(folder: Path, prefixes: tuple[str, ...]) -> State:
    """Read the entries whose name begins with one of ``prefixes``; otherwise as ``read_full``."""
    saved = read_metadata(folder).state_dict_metadata
    state: State = {}
    for name, entry in saved.items():
        if name.startswith(prefixes) and isinstance(entry, TensorStorageMetadata):
            tensor = torch.empty(tuple(entry.size), dtype=entry.properties.dtype)
            state[name] = whole(tensor, writes=True)
    if not state:
        raise CheckpointError(
            str(folder),
            f"no entry named {' or '.join(prefixes)}...",
            f"one of {', '.join(sorted({name.split('/')[0] + '/' for name in saved}))}",
            "Choose a checkpoint that holds what is asked for.",
        )
    load_entries(folder, state, None, partial=True)
    return state


def read_metadata(folder: Path) -> Metadata:
    """Read DCP's index: entry names, shapes, types and chunks.

    Raises:
        CheckpointError: It cannot be read, or names what no index needs.
    """
    metadata: list[Metadata] = []
    _reading(folder, lambda: metadata.append(IndexReader(folder).read_metadata()))
    return metadata[0]


def find_mismatches(metadata: Metadata, state: State, *, partial: bool = False) -> list[str]:
    """Name what keeps ``state`` from being loaded: at most three examples of each kind."""
    saved = metadata.state_dict_metadata
    missing = [name for name in state if name not in saved]
    unexpected = [] if partial else [name for name in saved if name not in state]
    unlike = []
    holes = []
    for name, entry in state.items():
        if name not in saved:
            continue
        there = saved[name]
        if not isinstance(there, TensorStorageMetadata):
            unlike.append(f"{name} is not a tensor")
        elif (tuple(there.size), there.properties.dtype) != (entry.shape, entry.dtype):
            unlike.append(
                f"{name} of {_form(tuple(there.size), there.properties.dtype)} "
                f"instead of {_form(entry.shape, entry.dtype)}"
            )
        elif not all(_is_covered(box, there.chunks) for box in entry.boxes):
            holes.append(name)
    return [
        *_some("it lacks", missing),
        *_some("it has unexpected", unexpected),
        *_some("it has", unlike),
        *_some("it holds only a part of", holes),
    ]


def _some(what: str, names: list[str]) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return [f"{what} {', '.join(names[:3])}{more}"]


def _form(shape: tuple[int, ...], dtype: torch.dtype) -> str:
    return f"shape {list(shape)} {str(dtype).removeprefix('torch.')}"


def _is_covered(box: Box, chunks: list[ChunkStorageMetadata]) -> bool:
    # Chunks do not overlap (checked at the save), so their volumes inside the box add up.
    return sum(_volume_of_overlap(box, chunk) for chunk in chunks) == box.tensor.numel()


def _volume_of_overlap(box: Box, chunk: ChunkStorageMetadata) -> int:
    return math.prod(
        max(0, min(begin + length, other + extent) - max(begin, other))
        for begin, length, other, extent in zip(
            box.offsets, box.sizes, chunk.offsets, chunk.sizes, strict=True
        )
    )


def _any_rank(flag: bool, group: dist.ProcessGroup | None) -> bool:
    if group is None:
        return flag
    raised = torch.tensor(int(flag))
    dist.all_reduce(raised, op=dist.ReduceOp.MAX, group=group)
    return bool(raised)


def _reading(folder: Path, read: Callable[[], object]) -> None:
    try:
        read()
    except UNREADABLE as error:
        cause = os_error_behind(error)
        raise CheckpointError(
            str(folder),
            f"{cause.strerror}: {cause.filename}" if cause else f"{type(error).__name__}: {error}",
            "a whole checkpoint",
            "Choose another checkpoint, or look for what changed this one.",
        ) from error
