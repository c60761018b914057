"""Whether the layers that fine-tuning adapts are there. Pure."""

from collections.abc import Collection, Iterator, Mapping

from distrain.config.lineage import lineage_of
from distrain.config.models import ModelConfig
from distrain.config.reading.stage_parts import Finding, StageParts
from distrain.config.reading.suggest import nearest
from distrain.config.training import LoraConfig


def check_adapters(stage: StageParts, stages: Mapping[str, StageParts]) -> Iterator[Finding]:
    """Check each name of ``lora.target_modules``.

    Which family a folder's model is of, and so which layers it has, is read later
    (``launcher.inputs.models``).
    """
    lora, root = stage.get("lora", LoraConfig), lineage_of(stages, stage.name).root
    model = None if root is None else stages[root].get("model", ModelConfig)
    if lora is None or model is None:
        return
    if model.from_pretrained is None and model.adaptable_layers:
        yield from adapter_findings(stage.name, lora, model.adaptable_layers, model.family_name)
        return


def adapter_findings(
    stage: str, lora: LoraConfig, layers: Collection[str], family: str
) -> Iterator[Finding]:
    """Yield a finding for each target that is not among the layers of a model of ``family``."""
    if lora.target_modules == "all-linear":
        return
    for number, name in enumerate(lora.target_modules):
        if name not in layers:
            message = (
                f"lora.target_modules: found '{name}', which {_reason(name, layers, family)}; "
                f"expected some of {', '.join(layers)}{_hint(name, layers)}"
            )
            yield Finding(stage, ("lora", "target_modules", number), message)


def _reason(name: str, layers: Collection[str], family: str) -> str:
    if name == "lm_head":
        return "is as large as the vocabulary and is not adapted"
    if name.rpartition(".")[2] in layers:
        return "is a path, while layers are named by the last part"
    return f"is no linear layer of {family}"


def _hint(name: str, layers: Collection[str]) -> str:
    last = name.rpartition(".")[2]
    near = last if last in layers else nearest(name, layers)
    return f"; did you mean '{near}'?" if near else ", or all-linear"
