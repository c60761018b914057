"""The file system that a URL names, through fsspec: for every reader and writer of stores.

One client for each protocol, its options and the process. Its own retries are off: whoever asks it
repeats by ``retries``, and two loops inside each other would know no deadline.
"""

import json
import os
from functools import lru_cache
from typing import Any

from distrain.config.sources import REMOTE_MODULES, protocol_of
from distrain.errors import DataError


def file_system_of(url: str, options: str) -> tuple[Any, str]:
    """Return the file system of a URL and the path in it; ``options`` are the recipe's, as JSON."""
    filesystem = _connect(protocol_of(url) or "file", options, os.getpid())
    return filesystem, filesystem._strip_protocol(url)


@lru_cache(maxsize=16)
def _connect(protocol: str, options: str, process: int) -> Any:  # noqa: ANN401
    del process  # part of the key: a client's threads do not outlive a fork
    import fsspec  # a quarter of a second, and files of this machine do without

    arguments = json.loads(options)
    is_s3 = REMOTE_MODULES.get(protocol) == "s3fs"
    if is_s3:
        # Its own retries and botocore's would multiply ours and know no deadline.
        config = arguments.get("config_kwargs", {})
        arguments["config_kwargs"] = {"retries": {"total_max_attempts": 1}, **config}
    try:
        filesystem = fsspec.filesystem(protocol, skip_instance_cache=True, **arguments)
    except ImportError as error:
        raise DataError(
            f"{protocol}://",
            str(error),
            f"the module {REMOTE_MODULES.get(protocol, protocol)}, with which fsspec reads it",
            "Install it: pip install 'distrain[remote]'.",
        ) from error
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{protocol}://",
            str(error),
            "a protocol that fsspec knows, and options that it takes",
            "Correct the URL or storage_options of the source.",
        ) from error
    if is_s3:
        filesystem.retries = 1
    return filesystem
