"""Whether patterns of frozen parameters match names, where those are known without the model."""

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase

from distrain.config.lineage import lineage_of
from distrain.config.models import ModelConfig
from distrain.config.reading.stage_parts import Finding, StageParts
from distrain.config.reading.suggest import nearest
from distrain.config.training import FREEZING, TrainingConfig


def check_frozen(stage: StageParts, stages: Mapping[str, StageParts]) -> Iterator[Finding]:
    """Check the patterns; of a folder or a family of transformers, ``launcher.inputs`` does."""
    training, root = stage.get("training", TrainingConfig), lineage_of(stages, stage.name).root
    model = None if root is None else stages[root].get("model", ModelConfig)
    if training is None or model is None or not training.freezes:
        return
    if "lora" in stage.sections and not stage.trains_all:
        setting = next(name for name in FREEZING if getattr(training, name))
        yield Finding(
            stage.name,
            ("training", setting),
            f"training.{setting}: found beside lora, which freezes all of the model; set lora to "
            "null, or name what is trained beside the adapters in lora.modules_to_save",
        )
    elif model.from_pretrained is None:
        yield from frozen_findings(stage.name, training, model.parameter_names() or ())


def frozen_findings(
    stage: str, training: TrainingConfig, names: Sequence[str]
) -> Iterator[Finding]:
    """Yield a finding for each pattern without a match, and where nothing is left to train.

    Nothing is said where ``names`` are not known.
    """
    if not names or not training.freezes:
        return
    ends = {name.rpartition(".")[0].rpartition(".")[2] for name in names}
    for setting in FREEZING:
        for number, pattern in enumerate(getattr(training, setting)):
            if not any(fnmatchcase(name, pattern) for name in names):
                near = nearest(pattern.strip("*.").removesuffix(".weight").rpartition(".")[2], ends)
                yield Finding(
                    stage,
                    ("training", setting, number),
                    f"training.{setting}: found '{pattern}', which no parameter's name matches; "
                    f"expected a pattern of names such as {names[0]} and {names[-1]}; write * for "
                    f"what differs{f', as in *{near}.*' if near else ''}",
                )
                return
    if all(map(training.is_frozen, names)):
        setting = next(name for name in FREEZING if getattr(training, name))
        yield Finding(
            stage,
            ("training", setting),
            f"training.{setting}: found patterns that leave nothing to train; expected at least "
            f"one parameter that is trained, such as {names[-1]}",
        )
