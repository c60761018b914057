"""Whether the layers that fine-tuning adapts, and the modules it trains whole, are there. Pure."""

from collections.abc import Collection, Iterator, Mapping, Sequence

from distrain.config.lineage import lineage_of
from distrain.config.lora import LoraConfig, ends_with, matches_end
from distrain.config.models import ModelConfig
from distrain.config.reading.stage_parts import Finding, StageParts
from distrain.config.reading.suggest import nearest
from distrain.config.training import ParallelismConfig, TrainingConfig


def check_adapters(stage: StageParts, stages: Mapping[str, StageParts]) -> Iterator[Finding]:
    """Check each name and pattern of ``lora``.

    Which family a folder's model is of, and so which layers it has, is read later
    (``launcher.inputs.models``).
    """
    lora, root = stage.get("lora", LoraConfig), lineage_of(stages, stage.name).root
    model = None if root is None else stages[root].get("model", ModelConfig)
    if lora is None or model is None:
        return
    if lora.quantization is not None:
        yield from _quantization(stage)
    if model.from_pretrained is None and model.adaptable_layers:
        yield from adapter_findings(stage.name, lora, model, model.adaptable_layers)


def _quantization(stage: StageParts) -> Iterator[Finding]:
    """Check what can be said before the number of processes is known."""
    parallelism = stage.get("parallelism", ParallelismConfig)
    training = stage.get("training", TrainingConfig)
    if parallelism is not None and parallelism.strategy in ("fsdp", "deepspeed"):
        yield Finding(
            stage.name,
            ("parallelism", "strategy"),
            f"parallelism.strategy: found {parallelism.strategy} with lora.quantization, whose "
            "weights cannot be cut over ranks; expected single or ddp; set it to ddp, or "
            "lora.quantization to null",
        )
    if training is not None and training.precision == "fp64":
        yield Finding(
            stage.name,
            ("training", "precision"),
            "training.precision: found fp64 with lora.quantization, whose weights are float32 "
            "before they lose bits; set precision to fp32 or bf16",
        )


def adapter_findings(
    stage: str,
    lora: LoraConfig,
    model: ModelConfig,
    layers: Collection[str],
    names: Sequence[str] = (),
) -> Iterator[Finding]:
    """Yield a finding for each name or pattern that no part of a model goes by.

    Args:
        stage: That trains adapters.
        lora: Its section.
        model: Sizes.
        layers: Last parts of the names of layers that can be adapted.
        names: Of all parameters, where the section does not know them. Without, only last parts are
            judged.
    """
    known = model.parameter_names() or names
    modules = list(dict.fromkeys(name.rpartition(".")[0] for name in known))
    adaptable = [name for name in modules if name.rpartition(".")[2] in layers] or list(layers)
    yield from _targets(stage, lora, adaptable, layers, model.family_name)
    if not known:
        return
    targets = list(filter(lora.is_target, adaptable))
    for setting in ("rank_pattern", "alpha_pattern"):
        for pattern in getattr(lora, setting):
            if not any(matches_end(pattern, layer) for layer in targets):
                found = "an adapted layer" if targets else "a layer"
                yield Finding(
                    stage,
                    ("lora", setting, pattern),
                    f"lora.{setting}: found '{pattern}', which matches the name of no adapted "
                    f"layer; expected the end of the name of {found}, such as "
                    f"{(targets or adaptable)[0]}{_hint(pattern, targets)}",
                    at_key=True,
                )
    # The output layer's own parameter is not there while it is the embedding.
    whole = [*modules, *(["lm_head"] if model.tie_word_embeddings else [])]
    for number, name in enumerate(lora.modules_to_save):
        if not any(ends_with(module, name) for module in whole):
            yield Finding(
                stage,
                ("lora", "modules_to_save", number),
                f"lora.modules_to_save: found '{name}', which is the end of no module's name that "
                f"has parameters; expected one such as {modules[0]} or {modules[-1]}"
                f"{_hint(name, whole)}",
            )


def _targets(
    stage: str,
    lora: LoraConfig,
    adaptable: Sequence[str],
    layers: Collection[str],
    family: str,
) -> Iterator[Finding]:
    if isinstance(lora.target_modules, str):
        if not any(map(lora.is_target, adaptable)) and set(adaptable) != set(layers):
            yield Finding(
                stage,
                ("lora", "target_modules"),
                f"lora.target_modules: found '{lora.target_modules}', which matches the whole name "
                f"of no linear layer of {family}; expected all-linear, a list of names, or a "
                f"regular expression for names such as {adaptable[0]} and {adaptable[-1]}",
            )
        return
    for number, name in enumerate(lora.target_modules):
        is_known = any(ends_with(layer, name) for layer in adaptable)
        if not is_known and not (set(adaptable) == set(layers) and _last(name) in layers):
            message = (
                f"lora.target_modules: found '{name}', which {_reason(name, layers, family)}; "
                f"expected some of {', '.join(layers)}{_hint(name, layers)}"
            )
            yield Finding(stage, ("lora", "target_modules", number), message)


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _reason(name: str, layers: Collection[str], family: str) -> str:
    if name == "lm_head":
        return "is as large as the vocabulary and is not adapted"
    if _last(name) in layers:
        return f"is no end of a layer's name of {family}"
    return f"is no linear layer of {family}"


def _hint(name: str, known: Collection[str]) -> str:
    """Suggest a name by its last part, or by all of it."""
    ends = {_last(layer) for layer in known}
    near = _last(name) if _last(name) in ends else nearest(_last(name), ends)
    return f"; did you mean '{near}'?" if near else ""
