"""Engines by the recipe's name of them; a new one is a file beside these and a line here."""

from collections.abc import Callable
from pkgutil import resolve_name

from distrain.parallel.engine import Engine
from distrain.parallel.model_spec import ModelSpec
from distrain.parallel.ranks import Ranks

EngineFactory = Callable[[Ranks, ModelSpec], Engine]

ENGINES = {
    "single": "distrain.parallel.engines.single:build_single",
    "ddp": "distrain.parallel.engines.ddp:build_ddp",
    "fsdp": "distrain.parallel.engines.fsdp:build_fsdp",
    "deepspeed": "distrain.parallel.engines.deepspeed:build_deepspeed",
    "pipeline": "distrain.parallel.engines.pipeline:build_pipeline",
}
"""By name, because each imports what only it needs: FSDP2 and DTensor take half a second."""


def engine_factory(strategy: str) -> EngineFactory:
    """Return what makes the engine of this name."""
    factory: EngineFactory = resolve_name(ENGINES[strategy])
    return factory
