"""What torch.distributed.checkpoint (DCP) is given: entries, planners and a writer of our own."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import FileSystemWriter
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
from distrain.fault.page import page
from distrain.parallel.global_tensor import GlobalTensor


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


class SyncedWriter(FileSystemWriter):
    """Syncs its files, never writes over others, and tells a full disk from a defect."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, sync_files=True, overwrite=False)

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
