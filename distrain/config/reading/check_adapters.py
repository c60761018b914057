"""Whether the layers that fine-tuning adapts are there. Pure."""

from collections.abc import Iterator

from distrain.config.models import ModelConfig
from distrain.config.reading.stage_parts import Finding, StageParts
from distrain.config.reading.suggest import nearest
from distrain.config.training import LoraConfig


def check_adapters(stage: StageParts) -> Iterator[Finding]:
    """Check each name of ``lora.target_modules``."""
    lora, model = stage.get("lora", LoraConfig), stage.get("model", ModelConfig)
    if lora is None or model is None or lora.target_modules == "all-linear":
        return
    layers = model.adaptable_layers
    for number, name in enumerate(lora.target_modules):
        if name not in layers:
            message = (
                f"lora.target_modules: found '{name}', which {_reason(name, model)}; expected some "
                f"of {', '.join(layers)}{_hint(name, layers)}"
            )
            yield Finding(stage.name, ("lora", "target_modules", number), message)


def _reason(name: str, model: ModelConfig) -> str:
    if name == "lm_head":
        return "is as large as the vocabulary and is not adapted"
    if name.rpartition(".")[2] in model.adaptable_layers:
        return "is a path, while layers are named by the last part"
    return f"is no linear layer of {model.name}"


def _hint(name: str, layers: tuple[str, ...]) -> str:
    last = name.rpartition(".")[2]
    near = last if last in layers else nearest(name, layers)
    return f"; did you mean '{near}'?" if near else ", or all-linear"
