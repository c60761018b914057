"""DCP's index of tensors and chunks, ``.metadata``, read so that it can run no code.

The index is a pickle, and a pickle may call whatever it can name. The names that an index needs
are few and known, so the reader knows no others.
"""

import pickle
from pathlib import Path, PosixPath
from typing import Any

import torch
from torch.distributed.checkpoint import metadata as dcp
from torch.distributed.checkpoint.filesystem import FileSystemReader, _StorageInfo
from torch.serialization import _get_layout

DTYPES = (
    *("float64", "float32", "float16", "bfloat16", "bool"),
    *("int64", "int32", "int16", "int8", "uint8"),
)

KNOWN: dict[tuple[str, str], Any] = {
    **{("torch", name): getattr(torch, name) for name in DTYPES},
    ("torch", "Size"): torch.Size,
    ("torch.serialization", "_get_layout"): _get_layout,
    ("pathlib", "PosixPath"): PosixPath,
    ("pathlib._local", "PosixPath"): PosixPath,  # as Python 3.13 names it
    (_StorageInfo.__module__, "_StorageInfo"): _StorageInfo,
    **{
        (dcp.__name__, known.__name__): known
        for known in (
            dcp.ChunkStorageMetadata,
            dcp.Metadata,
            dcp.MetadataIndex,
            dcp.StorageMeta,
            dcp.TensorProperties,
            dcp.TensorStorageMetadata,
            dcp._MEM_FORMAT_ENCODING,
        )
    },
}
"""(module, name) -> what an index means by it; whole names, because a prefix would let in more."""


class IndexReader(FileSystemReader):
    """DCP's reader, with an unpickler that knows only the names of an index.

    Without the ``rank`` of the method that it replaces, DCP does not look for an index of one
    rank, which no commit record lists.
    """

    def read_metadata(self) -> dcp.Metadata:
        """Read the index.

        Raises:
            pickle.UnpicklingError: It is damaged, or names something else.
            OSError: The file cannot be read.
        """
        with Path(self._get_metadata_path()).open("rb") as stream:
            try:
                metadata = _checked(_IndexUnpickler(stream).load())
            except (OSError, pickle.UnpicklingError):
                raise
            except Exception as error:  # a damaged pickle raises nearly anything
                raise pickle.UnpicklingError(f"{type(error).__name__}: {error}") from error
        # As the method does that this one replaces.
        metadata.storage_meta = dcp.StorageMeta(load_id=self.load_id)
        return metadata


def _checked(metadata: object) -> dcp.Metadata:
    """Refuse what would lead out of the folder, or is no index at all; raises any error."""
    if not isinstance(metadata, dcp.Metadata):
        raise pickle.UnpicklingError(f"it holds a {type(metadata).__name__}")
    for name, entry in metadata.state_dict_metadata.items():
        if not (isinstance(name, str) and _is_tensor(entry)):
            raise pickle.UnpicklingError(f"its entry {name!r} is no tensor")
    for chunk in metadata.storage_data.values():
        if Path(chunk.relative_path).name != chunk.relative_path:
            raise pickle.UnpicklingError(f"it names the file {chunk.relative_path!r}")
    return metadata


def _is_tensor(entry: object) -> bool:
    return (
        isinstance(entry, dcp.TensorStorageMetadata)
        and isinstance(entry.size, torch.Size)
        and isinstance(entry.properties.dtype, torch.dtype)
        and all(len(c.offsets) == len(c.sizes) == len(entry.size) for c in entry.chunks)
    )


class _IndexUnpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str) -> Any:  # noqa: ANN401
        try:
            return KNOWN[module_name, global_name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"it names {module_name}.{global_name}, which no index needs"
            ) from None
