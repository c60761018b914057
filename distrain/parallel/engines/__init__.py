"""Engines by the recipe's name of them; a new one is a file beside these and a line here."""

from collections.abc import Callable

from distrain.parallel.engine import Engine
from distrain.parallel.engines.ddp import build_ddp
from distrain.parallel.engines.deepspeed import build_deepspeed
from distrain.parallel.engines.fsdp import build_fsdp
from distrain.parallel.engines.single import build_single
from distrain.parallel.model_spec import ModelSpec
from distrain.parallel.ranks import Ranks

ENGINES: dict[str, Callable[[Ranks, ModelSpec], Engine]] = {
    "single": build_single,
    "ddp": build_ddp,
    "fsdp": build_fsdp,
    "deepspeed": build_deepspeed,
}
