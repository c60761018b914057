"""Objects below a URL, read whole or in ranges; one attempt a call."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import IO, Any

from fsspec.asyn import AsyncFileSystem
from fsspec.implementations.local import LocalFileSystem

from distrain.data.sources.connecting import file_system_of

REQUEST_TIMEOUT_S = 60.0
"""Of one request: 4 MiB at 70 kB/s."""


class RemoteStore:
    """A folder at any URL that fsspec opens (``s3://``, ``gs://``, ``https://``, ``file://``...).

    Args:
        url: Of the folder.
        storage_options: What fsspec gives to the file system, such as an endpoint.
        request_timeout_s: After which a request that hangs has failed.
    """

    def __init__(
        self,
        url: str,
        storage_options: Mapping[str, Any] | None = None,
        *,
        request_timeout_s: float = REQUEST_TIMEOUT_S,
    ) -> None:
        self.url = url.rstrip("/")
        self.storage_options = dict(storage_options or {})
        self.request_timeout_s = request_timeout_s
        options = json.dumps(self.storage_options, sort_keys=True)
        self.file_system, self.root = file_system_of(self.url, options)
        # Only asynchronous file systems can give up a request; others are local or blocking.
        self._limits = (
            {"timeout": request_timeout_s}
            if isinstance(self.file_system, AsyncFileSystem) and self.file_system.async_impl
            else {}
        )

    def below(self, *names: str) -> "RemoteStore":
        """Return the folder of that name in this one."""
        return RemoteStore(
            "/".join((self.url, *names)),
            self.storage_options,
            request_timeout_s=self.request_timeout_s,
        )

    def path(self, name: str) -> str:
        """Return what the file system calls an object."""
        return f"{self.root.rstrip('/')}/{name}"

    def read(self, name: str, start: int | None = None, stop: int | None = None) -> bytes:
        """Read an object, or the bytes [start, stop) of it; may return fewer, or fail."""
        content: bytes = self.file_system.cat_file(
            self.path(name), start=start, end=stop, **self._limits
        )
        return content

    @contextmanager
    def writing(self, name: str) -> Iterator[IO[bytes]]:
        """Open an object to be written; at object stores it appears when the context ends."""
        if isinstance(self.file_system, LocalFileSystem):
            # Object stores have no folders to make.
            self.file_system.makedirs(self.root, exist_ok=True)
        with self.file_system.open(self.path(name), "wb") as stream:
            yield stream

    def remove(self, name: str) -> None:
        """Remove an object, if it is there."""
        with suppress(FileNotFoundError):
            self.file_system.rm_file(self.path(name))

    def size(self, name: str) -> int | None:
        """Return the size of an object in bytes; ``None`` if it is not there."""
        try:
            # fsspec keeps listings, in which an object that was written since is not there.
            self.file_system.invalidate_cache()
            size: int = self.file_system.info(self.path(name))["size"]
        except FileNotFoundError:
            return None
        return size
