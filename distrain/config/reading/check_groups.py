"""Whether rules of ``optimizer.groups`` match names, where those are known without the model."""

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase

from distrain.config.lineage import lineage_of
from distrain.config.models import ModelConfig
from distrain.config.optimizers import OptimizerConfig
from distrain.config.reading.stage_parts import Finding, StageParts
from distrain.config.training import TrainingConfig


def check_groups(stage: StageParts, stages: Mapping[str, StageParts]) -> Iterator[Finding]:
    """Yield the rules that match no parameter; a stage that begins judges the rest the same way.

    Of a stage that trains adapters, the names are known only there; of a folder or a family of
    transformers, ``launcher.inputs.models`` asks for them.
    """
    optimizer, model = stage.get("optimizer", OptimizerConfig), stage.get("model", ModelConfig)
    root = lineage_of(stages, stage.name).root
    first = None if root is None else stages[root].get("model", ModelConfig)
    if optimizer is None or model is None or first is None or "lora" in stage.sections:
        return
    names = None if first.from_pretrained is not None else model.parameter_names()
    training = stage.get("training", TrainingConfig)
    trained = [name for name in names or () if training is None or not training.is_frozen(name)]
    yield from group_findings(stage.name, optimizer, trained)


def group_findings(
    stage: str, optimizer: OptimizerConfig, names: Sequence[str]
) -> Iterator[Finding]:
    """Yield a finding for each rule that matches none of ``names``; nothing where there are none.

    ``names`` are unknown then.
    """
    for number, rule in enumerate(optimizer.groups if names else ()):
        if not any(fnmatchcase(name, rule.match) for name in names):
            yield Finding(
                stage,
                ("optimizer", "groups", number, "match"),
                f"optimizer.groups[{number}].match: found '{rule.match}', which no parameter's "
                f"name matches; expected a pattern of names such as {names[0]}, {names[1]} and "
                f"{names[-1]}; write * for what differs, as in *norm.weight",
            )
