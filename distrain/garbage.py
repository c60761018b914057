"""When Python looks for cyclic garbage."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_collections() -> Iterator[None]:
    """Do not look for garbage within: for imports of hundreds of modules.

    They make objects by the hundred thousand, and all of them stay; the collector would go through
    them time and again, for a seventh of the time that torch takes, and a fifth of transformers'.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
