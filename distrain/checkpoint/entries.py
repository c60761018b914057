"""What torch.distributed.checkpoint (DCP) is given: entries, planners and a writer of our own."""

import io
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import torch
from torch import Tensor
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import FileSystem, FileSystemWriter
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import (
    SavePlan,
    SavePlanner,
    TensorWriteData,
    WriteItem,
    WriteItemType,
)

from distrain.checkpoint.agreement import os_error_behind
from distrain.fault.page import in_file_system, page
from distrain.parallel.global_tensor import GlobalTensor
from distrain.runs import durable

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class Entry:
    """A ``GlobalTensor`` in the form of DCP's ``_Checkpointable`` protocol."""

    def __init__(self, entry: GlobalTensor) -> None:
        self._shape = torch.Size(entry.shape)
        self._properties = TensorProperties(dtype=entry.dtype)
        self._writes = entry.writes
        # A rank at the end of an uneven split may hold a box without elements.
        self._boxes = {
            torch.Size(box.offsets): box.tensor for box in entry.boxes if box.tensor.numel()
        }

    def size(self) -> torch.Size:
        """Return the shape of the whole tensor; DCP compares it with the saved one."""
        return self._shape

    def __create_write_items__(self, fqn: str, obj: object) -> list[WriteItem]:
        if not self._writes:
            return []
        return [
            WriteItem(
                index=MetadataIndex(fqn, chunk.offsets),
                type=WriteItemType.SHARD,
                tensor_data=TensorWriteData(chunk, self._properties, self._shape),
            )
            for chunk in self.__create_chunk_list__()
        ]

    def __create_chunk_list__(self) -> list[ChunkStorageMetadata]:
        return [
            ChunkStorageMetadata(offsets, tensor.size()) for offsets, tensor in self._boxes.items()
        ]

    def __get_tensor_shard__(self, index: MetadataIndex) -> Tensor:
        if index.offset is None:
            raise ValueError(f"{index.fqn} is looked up without an offset")
        return self._boxes[index.offset]


class BoxSavePlanner(DefaultSavePlanner):
    """Finds boxes, and refuses a state that does not fill its tensors."""

    def lookup_object(self, index: MetadataIndex) -> Tensor:
        """Find the box to write; DCP itself asks only tensors for their shards."""
        page.mark_chunk()  # DCP asks for each as it comes to it
        entry: Entry = self.state_dict[index.fqn]
        return entry.__get_tensor_shard__(index)

    def create_global_plan(self, all_plans: list[SavePlan]) -> tuple[list[SavePlan], Metadata]:
        """Join the plans of all ranks; neither overlaps nor holes are accepted."""
        plans, metadata = super().create_global_plan(all_plans)  # refuses overlaps
        for name, entry in self.state_dict.items():
            saved = metadata.state_dict_metadata.get(name)
            chunks = saved.chunks if isinstance(saved, TensorStorageMetadata) else []
            filled = sum(chunk.sizes.numel() for chunk in chunks)
            if filled != entry.size().numel():
                raise ValueError(
                    f"{name}: all ranks together write {filled} of {entry.size().numel()} values"
                )
        return plans, metadata


class BoxLoadPlanner(DefaultLoadPlanner):
    """Finds boxes; names are flat, so nothing needs flattening."""

    def __init__(self) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)

    def set_up_planner(
        self,
        state_dict: dict[str, Any],
        metadata: Metadata | None = None,
        is_coordinator: bool = False,
    ) -> None:
        """Take the entries as they are; the default replaces what is no tensor by ``None``."""
        self.original_state_dict = self.state_dict = state_dict
        self.metadata = metadata
        self.is_coordinator = is_coordinator

    def lookup_tensor(self, index: MetadataIndex) -> Tensor:
        """Find the box to fill."""
        page.mark_chunk()
        entry: Entry = self.state_dict[index.fqn]
        return entry.__get_tensor_shard__(index)


class SyncedStream(io.BufferedIOBase):
    """A file to write that is on disk once it is closed; the page tells its calls from work."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def writable(self) -> bool:
        """Return that it is."""
        return True

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._stream.fileno()

    def tell(self) -> int:
        """Return how much was written."""
        return self._stream.tell()

    def write(self, data: "ReadableBuffer", /) -> int:
        """Write bytes; where caches are full, that waits for the disk."""
        with in_file_system():
            return self._stream.write(data)

    def flush(self) -> None:
        """Give the system what is buffered."""
        if not self._stream.closed:
            self._stream.flush()

    def close(self) -> None:
        """Sync and close; over a network, either may be what sends all."""
        if self.closed:
            return
        with in_file_system():
            try:
                durable.sync_stream(self._stream)
            finally:
                self._stream.close()
                super().close()


class SyncedFiles(FileSystem):
    """A disk whose files are synced as they are closed."""

    @contextmanager
    def create_stream(
        self, path: str | os.PathLike[str], mode: str
    ) -> Generator[io.IOBase, None, None]:
        """Open a file to write."""
        with SyncedStream(cast("BinaryIO", Path(path).open(mode))) as stream:
            yield stream


class SyncedWriter(FileSystemWriter):
    """Syncs its files, never writes over others, and tells a full disk from a defect."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, sync_files=False, overwrite=False)
        self.fs = SyncedFiles()

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> torch.futures.Future[Any]:
        """Write and sync this rank's file."""
        try:
            written: torch.futures.Future[Any] = super().write_data(plan, planner)
        except RuntimeError as error:
            # torch.save says "unexpected pos" when the file refuses the bytes.
            cause = os_error_behind(error)
            if cause is None:
                raise
            raise cause from error
        return written
