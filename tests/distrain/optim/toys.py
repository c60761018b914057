"""The test-only optimizers, known for a while. A real one has its two lines in the two dicts."""

from collections.abc import Iterator
from contextlib import contextmanager

from distrain.config.optimizers import OPTIMIZER_SECTIONS
from distrain.optim import OPTIMIZERS
from tests.distrain.optim.counted import CountedConfig, counted, counted_state
from tests.distrain.optim.factored import FactoredConfig, factored, factored_state


def register() -> None:
    """Let a process know them."""
    OPTIMIZER_SECTIONS.update(counted=CountedConfig, factored=FactoredConfig)
    OPTIMIZERS.update(counted=(counted, counted_state), factored=(factored, factored_state))


@contextmanager
def registered() -> Iterator[None]:
    """Let this process know them until the end of a test."""
    register()
    try:
        yield
    finally:
        for name in ("counted", "factored"):
            del OPTIMIZER_SECTIONS[name], OPTIMIZERS[name]
