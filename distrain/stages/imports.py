"""What the ranks of a training stage import: for a process that imports it once, before them.

What a stage's own modules do not import at their head is named here, by what calls for it: a single
process must not wait for any of it before its first step.
"""

from collections.abc import Iterator

from distrain.config.huggingface import load_config
from distrain.config.layout import Layout
from distrain.config.lineage import lineage_of
from distrain.config.models import ModelConfig
from distrain.config.pretrained.resolve import resolve_pretrained
from distrain.config.recipe import FinetuneStage, Recipe, TrainStage
from distrain.models import model_on_meta
from distrain.parallel.engines import ENGINES
from distrain.stages import STAGES

ALWAYS = ("numpy.random", "torch.utils._device")
SEVERAL_RANKS = ("accelerate", "torch._dynamo")
"""A model without values, and torch's own way to draw them in parts."""
DEEPSPEED = (
    "deepspeed",
    "deepspeed.comm.mori",
    "deepspeed.module_inject.auto_ep_config",
    "deepspeed.module_inject.auto_ep_layer",
    "deepspeed.ops.op_builder.all_ops",
    "deepspeed.runtime.superoffload.superoffload_stage3",
    "deepspeed.runtime.zero.muon.muon_optimizer",
    "deepspeed.utils.pin_memory",
    "distutils.sysconfig",
    "distutils.unixccompiler",
    "torch._subclasses.schema_check_mode",
)
"""What it imports while it looks at this machine and at its settings."""
FINETUNING = ("encodings.unicode_escape", "distrain.checkpoint.weights")
"""Chat templates, and the stage below."""
LATE = (
    "distrain.checkpoint.dcp",
    "distrain.checkpoint.index",
    "torch.profiler._cupti_monitor",
    "torch.utils.serialization.config",
)
"""Of the first update, the first save, and of every resume."""


def first_modules(stage: TrainStage, kind: str, layout: Layout) -> list[str]:
    """Return what a rank imports before its first step, whichever attempt it is of."""
    modules = [STAGES[kind], ENGINES[layout.strategy].partition(":")[0], *ALWAYS]
    if layout.strategy != "single":
        modules += SEVERAL_RANKS
    if layout.strategy == "deepspeed":
        modules += DEEPSPEED
    return [*modules, *_of_finetuning(stage)]


def late_modules(stage: TrainStage) -> list[str]:
    """Return what is imported at an update, a save, a validation or a resume."""
    return [*LATE, *(section.module for section in stage.logging.sinks.values())]


def import_family(recipe: Recipe, name: str) -> None:
    """Have a library import what the model of a stage needs, by making the model without values.

    Such a library imports as it is used, down to the module of one family.
    """
    first = recipe.stages[str(lineage_of(recipe.stages, name).root)]
    assert isinstance(first, TrainStage), "what a model comes from has trained it"
    model: ModelConfig = first.model
    if model.from_pretrained is not None:
        model, _ = load_config(resolve_pretrained(model.from_pretrained))
    model_on_meta(model, vocab_size=64)


def _of_finetuning(stage: TrainStage) -> Iterator[str]:
    if not isinstance(stage, FinetuneStage):
        return
    yield from FINETUNING
    if stage.lora is not None:
        yield from ("peft", "peft.tuners.lora.bnb")
