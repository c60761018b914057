"""When Python looks for cyclic garbage."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_collections() -> Iterator[None]:
    """Do not look for garbage within, nor ever among what was imported: for hundreds of modules.

    They make objects by the hundred thousand, and all of them stay; the collector would go through
    them time and again, for a seventh of the time that torch takes, and a fifth of transformers'.
    """
    was_enabled, modules_before = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) > modules_before:  # else only what the caller holds would be kept
            gc.freeze()
        if was_enabled:
            gc.enable()
