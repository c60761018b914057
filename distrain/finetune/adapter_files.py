"""Adapters as PEFT's files, which ``PeftModel.from_pretrained`` reads."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from distrain.config.lora import LoraConfig
from distrain.finetune.lora import PEFT_PREFIX, is_adapter
from distrain.finetune.merged import adapted_layers
from distrain.models.causal_lm import CausalLM
from distrain.models.weights.writer import write_tensors
from distrain.runs.durable import whole_folder
from distrain.runs.records import write_json


def save_adapter(
    state: Mapping[str, Tensor],
    config: LoraConfig,
    model: CausalLM,
    base_folder_name: str,
    folder: Path,
) -> None:
    """Write a folder that ``PeftModel.from_pretrained(model, folder)`` loads.

    Args:
        state: The adapters, and what was trained whole, under the names of ``lora.plain_name``.
        config: With which they were made.
        model: Adapted by them; values do not matter. Says how layers are called in its folder.
        base_folder_name: What the folder gives as its base model: a path, or a folder beside it.
        folder: Appears when it is complete; one that is there is replaced.

    Raises:
        ValueError: An adapter lacks one of its tensors, or there is none.
    """
    layers = adapted_layers(state, config)
    stored = {}
    for name, tensor in state.items():
        layer, _, part = name.partition(".lora_")
        # What was trained whole is called as in the model; peft puts it into its copy.
        path = f"{_written(model, layer)}.lora_{part}" if part else model.huggingface_name(name)
        stored[PEFT_PREFIX + path] = tensor
    with whole_folder(folder) as partial:
        write_tensors(partial / "adapter_model.safetensors", stored)
        # The file that peft writes also states its defaults; written by hand, because importing
        # peft takes seconds.
        write_json(
            partial / "adapter_config.json",
            {
                "peft_type": "LORA",
                "task_type": "CAUSAL_LM",
                "base_model_name_or_path": base_folder_name,
                "r": config.r,
                "lora_alpha": config.alpha,
                "rank_pattern": _patterns(
                    model, layers, config.rank_of, config.rank_pattern, config.r
                ),
                "alpha_pattern": _patterns(
                    model, layers, config.alpha_of, config.alpha_pattern, config.alpha
                ),
                "lora_dropout": config.dropout,
                "target_modules": _targets(model, layers, config),
                "modules_to_save": _saved_modules(model, state) or None,
                "bias": "none",
                "fan_in_fan_out": not model.transposed_layers.isdisjoint(layers),
                "use_rslora": config.use_rslora,
                "use_dora": config.use_dora,
                "inference_mode": True,
            },
        )


def _written(model: CausalLM, layer: str) -> str:
    return model.huggingface_name(f"{layer}.weight").removesuffix(".weight")


def _targets(model: CausalLM, layers: list[str], config: LoraConfig) -> list[str]:
    """Name the adapted layers: by their last parts, where those name no others."""
    whole = [_written(model, layer) for layer in layers]
    last = {name.rpartition(".")[2] for name in whole}
    adapted = set(layers)
    others = {
        _written(model, name).rpartition(".")[2]
        for name, _ in model.named_modules()
        if name not in adapted
    }
    return sorted(last if last.isdisjoint(others) else whole)


def _patterns(
    model: CausalLM,
    layers: list[str],
    value_of: Callable[[str], int],
    written: Mapping[str, int],
    usual: int,
) -> dict[str, int]:
    """Say in peft's form which layers have another rank or alpha than the usual one."""
    expected = {_written(model, layer): value_of(layer) for layer in layers}
    if all(value_of(name) == value for name, value in expected.items()):
        return dict(written)
    # In a folder where layers have other names, each is named by itself.
    return {re.escape(name): value for name, value in expected.items() if value != usual}


def _saved_modules(model: CausalLM, state: Mapping[str, Tensor]) -> list[str]:
    whole = [model.huggingface_name(name) for name in state if not is_adapter(name)]
    return sorted({name.rpartition(".")[0] for name in whole})
