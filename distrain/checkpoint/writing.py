"""Writing one checkpoint: a fresh hidden folder, the bytes, the commit record, one rename."""

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from distrain.checkpoint.agreement import FailedError, agree, on_first
from distrain.checkpoint.commit import Commit, CommittedFile, Content, digest_file, write_commit
from distrain.checkpoint.content import Sums, join, sum_hashes
from distrain.checkpoint.layout import EXTRA, METADATA, Name, free_name
from distrain.fault.page import in_file_system
from distrain.parallel.collectives import HostGroup
from distrain.parallel.global_tensor import State
from distrain.runs import durable
from distrain.runs.records import json_text


@dataclass(frozen=True)
class Written:
    """A committed checkpoint."""

    name: Name
    size_bytes: int
    """Of all files of all ranks, the commit record aside."""
    content: Content


def write_checkpoint(
    folder: Path, step: int, state: State, extra: Mapping[str, object], host: HostGroup
) -> Written:
    """Write and commit one checkpoint. Collective.

    Args:
        folder: The stage's ``checkpoints``.
        step: The optimizer step that it follows.
        state: This rank's part; must not change before the return.
        extra: JSON values, the same on every rank.
        host: A group that nothing else uses meanwhile.

    Raises:
        FailedError: On every rank; nothing is left behind.
    """
    from distrain.checkpoint.dcp import save_entries

    name, saving = on_first(host, lambda: _begin(folder, step, extra))
    try:
        _check_equal(state, extra, host)
        save_entries(saving, state, host)
        parts = agree(host, lambda: _digest_part(saving, state, host.rank))
        files = {file: record for part in parts for file, record in part.files.items()}
        content = join(part.sums for part in parts)
        commit = Commit(step, host.world_size, files, content)
        on_first(host, lambda: _commit(saving, folder / str(name), commit))
    except BaseException:
        if host.rank == 0:
            with in_file_system():
                shutil.rmtree(saving, ignore_errors=True)  # on a full disk this is what helps
        raise
    return Written(name, sum(record.size for record in files.values()), content)


@dataclass(frozen=True)
class _Part:
    """What one rank wrote."""

    files: dict[str, CommittedFile]
    sums: Sums


def _check_equal(state: State, extra: Mapping[str, object], host: HostGroup) -> None:
    """Refuse to keep one rank's word for all where the ranks say different things. Collective.

    Raises:
        FailedError: On every rank.
    """

    def digests() -> dict[str, object]:
        claims: dict[str, object] = {
            name: sum_hashes({name: replace(entry, writes=True)})
            for name, entry in state.items()
            if entry.is_claimed_equal
        }
        return claims | {EXTRA: hashlib.sha256(json_text(extra).encode()).hexdigest()}

    first, *others = agree(host, digests)
    for rank, other in enumerate(others, start=1):
        # One may lack what another has: state that its optimizer has not made.
        names = dict.fromkeys([*first, *other])
        unlike = [name for name in names if first.get(name) != other.get(name)]
        if unlike:
            raise FailedError(
                f"{', '.join(unlike[:3])}: not the same on rank {rank} as on rank 0, and only one "
                "of them would be saved",
                None,
            )


def _begin(folder: Path, step: int, extra: Mapping[str, object]) -> tuple[Name, Path]:
    folder.mkdir(parents=True, exist_ok=True)
    name = free_name(folder, step)
    saving = folder / name.hidden_for_saving()
    content = (json_text(extra, indent=1) + "\n").encode()
    saving.mkdir()  # fails if it is there: two writers would mix their files
    try:
        with in_file_system():
            durable.write_file(saving / EXTRA, content)
    except OSError:
        shutil.rmtree(saving, ignore_errors=True)
        raise
    return name, saving


def _digest_part(saving: Path, state: State, rank: int) -> _Part:
    """Digest this rank's file and values; rank 0 also answers for what it alone wrote."""
    from distrain.checkpoint.index import IndexReader

    own = [path.name for path in saving.glob(f"__{rank}_*")]
    if rank == 0:
        IndexReader(saving).read_metadata()  # what we could not read again is no checkpoint
        own += [METADATA, EXTRA]
    return _Part({file: digest_file(saving / file) for file in own}, sum_hashes(state))


def _commit(saving: Path, target: Path, commit: Commit) -> None:
    with in_file_system():
        write_commit(saving, commit)
        # The entries of the folder before its name: what can be found by name must be whole.
        durable.sync(saving)
        durable.move_folder(saving, target)
