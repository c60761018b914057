"""Files of this machine and of stores: listed with their versions, and read only while unchanged.

Stores are reached through fsspec. Every request is asked again as ``retries`` says, so what comes
out of here is the whole content or an error, never a part.
"""

import datetime
import io
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from distrain.config.sources import RetriesConfig, StoreSection, protocol_of
from distrain.data.sources.connecting import file_system_of
from distrain.data.sources.ranges import InputFile
from distrain.data.sources.retries import ShortBodyError, describe, remote_errors, retry
from distrain.errors import DataError

REQUEST_BYTES = 8 * 2**20
"""Of one request to a store: long enough to hide its latency, short enough to repeat."""
LOCAL_BUFFER_BYTES = 2**20
VERSION_KEYS = (
    "ETag",
    "etag",
    "generation",
    "blob_id",
    "Last-Modified",
    "LastModified",
    "last_modified",
    "mtime",
    "modified",
    "created",
)
"""Fields by which file systems identify a file's content, the surest first."""


class Storage:
    """The files of one source, local or in a store, read with its options and retries."""

    def __init__(self, options: Mapping[str, Any], retries: RetriesConfig) -> None:
        self.options = json.dumps(dict(options), sort_keys=True)
        self.retries = retries

    @classmethod
    def of(cls, source: StoreSection) -> "Storage":
        """Return the storage that a section of the recipe describes."""
        return cls(source.storage_options, source.retries)

    def stat(self, url: str) -> InputFile:
        """Return the file as it is now.

        Raises:
            FileNotFoundError: There is no such file.
            DataError: The store does not answer, or does not tell the size.
        """
        if protocol_of(url) is None:
            return local_file(Path(url))
        return file_from(url, self.ask(url, "info"))

    @contextmanager
    def open(self, file: InputFile) -> Iterator[BinaryIO]:
        """Open a listed file; the stream can seek.

        The version is checked again after the last read, so that all bytes are of one version.

        Raises:
            DataError: It is not the file that was listed, or the store does not hand it over.
            OSError: A file of this machine cannot be read.
        """
        if protocol_of(file.url) is None:
            with _open_local(file) as stream:
                yield stream
        elif file.size <= REQUEST_BYTES:
            # One request, and all of it in memory before the check: no connection stays open while
            # the documents are worked on.
            body = self.fetch(file, 0, file.size) if file.size else b""
            self.check(file)
            yield io.BytesIO(body)
            return
        else:
            self.check(file)
            with io.BufferedReader(_RemoteFile(self, file), REQUEST_BYTES) as remote:
                yield cast(BinaryIO, remote)
        self.check(file)

    def check(self, file: InputFile) -> None:
        """Check that a file is what it was when it was listed.

        Raises:
            DataError: It changed, was cut off, or is gone.
        """
        try:
            found = self.stat(file.url)
        except FileNotFoundError:
            raise _changed(file, "no such file") from None
        _compare(file, found)

    def ask(self, url: str, method: str, **arguments: Any) -> Any:  # noqa: ANN401  (fsspec's)
        """Call a method of the URL's file system, with retries.

        Raises:
            FileNotFoundError: As the store says.
            DataError: Any other refusal, or no answer in time.
        """
        filesystem, path = file_system_of(url, self.options)
        return self._request(
            url, lambda timeout: _call(filesystem, method, path, timeout, arguments)
        )

    def fetch(self, file: InputFile, start: int, stop: int) -> bytes:
        """Return bytes ``start`` to ``stop`` of a file in a store.

        Raises:
            DataError: It changed, or cannot be had.
        """
        filesystem, path = file_system_of(file.url, self.options)

        def request(timeout: float) -> bytes:
            part = {"start": start, "end": stop}
            body = _call(filesystem, "cat_file", path, timeout, part)
            if len(body) == file.size > stop - start:
                body = body[start:stop]  # from a server that knows no ranges
            # A changed file explains it, and asking again would not help; else the connection broke
            # off.
            if len(body) != stop - start:
                self.check(file)
                raise ShortBodyError(f"{len(body)} of {stop - start} bytes")
            return bytes(body)

        try:
            return cast(bytes, self._request(file.url, request))
        except FileNotFoundError:
            raise _changed(file, "no such file") from None

    def _request(self, url: str, request: Any) -> Any:  # noqa: ANN401
        try:
            return retry(url, request, self.retries)
        # An ``OSError`` as well, but an answer: the caller says what it means.
        except FileNotFoundError:
            raise
        except (TypeError, ValueError) as error:  # an option that its client does not know
            raise _refused(url, error) from error
        except remote_errors() as error:
            raise _refused(url, error) from error


class _RemoteFile(io.RawIOBase):
    """A file in a store as a stream; each read is one request."""

    def __init__(self, storage: Storage, file: InputFile) -> None:
        self._storage = storage
        self._file = file
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._file.size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401  (anything with a buffer)
        stop = min(self._position + len(buffer), self._file.size)
        if stop <= self._position:
            return 0
        body = self._storage.fetch(self._file, self._position, stop)
        buffer[: len(body)] = body
        self._position = stop
        return len(body)


def local_file(path: Path) -> InputFile:
    """Return a file of this machine as it is now.

    Raises:
        OSError: It is not there, or its folder may not be read.
    """
    status = path.stat()
    return InputFile(path.as_posix(), status.st_size, str(status.st_mtime_ns))


def file_from(url: str, info: Mapping[str, Any]) -> InputFile:
    """Convert fsspec's record of a file.

    Raises:
        DataError: The store does not tell the size.
    """
    size = info.get("size")
    if not isinstance(size, int):
        raise DataError(
            url,
            "a server that does not tell the size of the file",
            "a size, by which a body that was cut off is found out",
            "Copy the file to this machine or to a store, and name the copy.",
        )
    return InputFile(url, size, version_of(info))


def version_of(info: Mapping[str, Any]) -> str:
    """Return what changes with the content of the file, or an empty string."""
    for key in VERSION_KEYS:
        value = info.get(key)
        if value:
            is_time = isinstance(value, datetime.datetime)
            return str(value.timestamp() if is_time else value).strip('"')
    return ""


def url_of(parent: str, path: str, options: str) -> str:
    """Return the URL of a ``path`` that the file system of the URL ``parent`` listed."""
    filesystem, _ = file_system_of(parent, options)
    return str(filesystem.unstrip_protocol(path))


def _call(
    filesystem: Any,  # noqa: ANN401  (fsspec has no annotations)
    method: str,
    path: str,
    timeout: float,
    arguments: Mapping[str, Any],
) -> Any:  # noqa: ANN401
    """Call ``method``; of an asynchronous file system, within the time."""
    filesystem.invalidate_cache()  # the point is to see what is there now
    if not filesystem.async_impl:
        return getattr(filesystem, method)(path, **arguments)
    import fsspec.asyn

    coroutine = getattr(filesystem, f"_{method}")
    return fsspec.asyn.sync(filesystem.loop, coroutine, path, timeout=timeout, **arguments)


@contextmanager
def _open_local(file: InputFile) -> Iterator[BinaryIO]:
    try:
        size = max(io.DEFAULT_BUFFER_SIZE, min(LOCAL_BUFFER_BYTES, file.size))
        stream = Path(file.url).open("rb", buffering=size)  # noqa: SIM115
    except FileNotFoundError:
        raise _changed(file, "no such file") from None
    with stream:
        # Of the open file: the name may be given to another one at any moment.
        status = os.fstat(stream.fileno())
        _compare(file, InputFile(file.url, status.st_size, str(status.st_mtime_ns)))
        yield stream


def _compare(listed: InputFile, found: InputFile) -> None:
    if found.size != listed.size:
        raise _changed(listed, f"{found.size} bytes")
    if found.version != listed.version:
        raise _changed(listed, f"{found.size} bytes of version {found.version}")


def _refused(url: str, error: Exception) -> DataError:
    return DataError(
        url,
        describe(error),
        "a store that hands it over",
        "Correct the URL or storage_options, or give the store's credentials in the environment.",
    )


def _changed(listed: InputFile, found: str) -> DataError:
    return DataError(
        listed.url,
        found,
        f"the {listed.size} bytes of version {listed.version} that were listed",
        "Put the file back as it was, or start from the beginning with what is there now.",
    )
