"""Small files beside the blocks of published splits at a URL, read whole.

A list of the sources of each split, a manifest for each source, and the tokenizer.
"""

import json
import time
from collections.abc import Callable

from distrain.config.huggingface import TOKENIZER_FILE
from distrain.config.token_sources import is_url
from distrain.data.remote.cache.fetching import TransferProgress, complete
from distrain.data.remote.cache.remote_store import RemoteStore
from distrain.data.shards.manifest import (
    MANIFEST,
    Manifest,
    check_names,
    is_whole_manifest,
    parse_manifest,
)
from distrain.errors import DataError

PUBLISHED = "published.json"
"""At the URL: the names of the sources of each split."""
TOKENIZER_FILES = (TOKENIZER_FILE, "tokenizer_config.json")
"""At the URL; the second one names the control tokens of a tokenizer that is not ours."""


def store_at(target: str) -> RemoteStore | None:
    """Return the store that a URL names; ``None`` for a path of this machine."""
    return RemoteStore(target) if is_url(target) else None


def list_remote_sources(store: RemoteStore, split: str, *, timeout_s: float) -> list[str]:
    """Return the names of the published sources of a split.

    Raises:
        DataError: Nothing was published there, or nothing of this split, or it is not readable.
    """
    # The list is asked and not the store: many cannot list what they hold.
    names = read_published(store, timeout_s=timeout_s).get(split, [])
    if not names:
        raise DataError(
            f"{store.url}/{PUBLISHED}",
            f"no source of the {split} split",
            "one at least",
            "Publish the run again with 'distrain data publish'.",
        )
    return names


def read_published(store: RemoteStore, *, timeout_s: float) -> dict[str, list[str]]:
    """Return the names of the published sources by split.

    Not every store can list its objects, so ``publish`` writes a list of them.

    Raises:
        DataError: Nothing was published there, or it is not readable.
    """
    remote = _Whole(store, PUBLISHED, "the list of what was published there", _is_json)
    content = complete(remote, TransferProgress(time.monotonic() + timeout_s))
    names: dict[str, list[str]] = json.loads(content)
    return names


def read_source_manifest(
    store: RemoteStore, split: str, source: str, *, timeout_s: float
) -> Manifest:
    """Read the manifest of a published source, and see that it is of this split and source.

    Raises:
        DataError: It is not there, is damaged, of another one, or did not come in time.
    """
    below = store.below(split, source)
    manifest = read_manifest(below, timeout_s=timeout_s)
    check_names(manifest, split, source, f"{below.url}/{MANIFEST}")
    return manifest


def read_tokenizer_files(store: RemoteStore, *, timeout_s: float) -> dict[str, bytes]:
    """Return the files by which a published tokenizer is loaded, by name.

    Raises:
        DataError: They are not there, or not readable.
    """
    # One for all files: whoever waits gave a time for the tokenizer, not for each of its parts.
    deadline = time.monotonic() + timeout_s
    there: dict[str, bytes] = {}
    for name in TOKENIZER_FILES:
        transfer = _Whole(store, name, "a file of JSON", _is_json)
        try:
            there[name] = complete(transfer, TransferProgress(deadline))
        except DataError as error:
            # A tokenizer made by distrain is known without the second file.
            if name == TOKENIZER_FILE or not isinstance(error.__cause__, FileNotFoundError):
                raise
    return there


def read_manifest(store: RemoteStore, *, timeout_s: float) -> Manifest:
    """Read the manifest of a published source, again until it comes whole.

    Raises:
        DataError: It is not there, is damaged, or did not come in time.
    """
    whole = "a manifest whose checksum fits its content"
    remote = _Whole(store, MANIFEST, whole, is_whole_manifest)
    content = complete(remote, TransferProgress(time.monotonic() + timeout_s))
    return parse_manifest(content.decode(), remote.url)


class _Whole:
    """A small object whose content shows whether it came whole, as something to download."""

    def __init__(
        self, store: RemoteStore, name: str, expected: str, is_whole: Callable[[bytes], bool]
    ) -> None:
        self.label = name
        self.expected = expected
        self.url = f"{store.url}/{name}"
        self._store = store
        self._is_whole = is_whole

    def attempt(self) -> bytes | None:
        """Read it; ``None`` if it is not whole."""
        content = self._store.read(self.label)
        return content if self._is_whole(content) else None


def _is_json(content: bytes) -> bool:
    try:
        json.loads(content)
    except ValueError:
        return False
    return True
