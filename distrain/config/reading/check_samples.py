"""Whether what a model is to write at validations fits into its positions. Pure."""

from collections.abc import Iterator, Mapping

from distrain.config.lineage import lineage_of
from distrain.config.models import ModelConfig
from distrain.config.reading.stage_parts import Finding, StageParts
from distrain.config.training import EvalConfig


def check_samples(stage: StageParts, stages: Mapping[str, StageParts]) -> Iterator[Finding]:
    """Check the number of new tokens; prompts are counted in tokens when the stage begins."""
    config = stage.get("eval", EvalConfig)
    root = lineage_of(stages, stage.name).root
    first = None if root is None else stages[root].get("model", ModelConfig)
    if config is None or config.samples is None or first is None:
        return
    if first.from_pretrained is not None:
        return  # its own configuration says how far it goes
    new, positions = config.samples.max_new_tokens, first.max_position_embeddings
    if new >= positions:
        yield Finding(
            stage.name,
            ("eval", "samples", "max_new_tokens"),
            f"eval.samples.max_new_tokens: found {new}; expected less than "
            f"model.max_position_embeddings, {positions}: the prompt has to fit, too",
        )
