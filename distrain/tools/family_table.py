"""Make the table of transformers' families that recipes are checked against without importing it.

    python -m distrain.tools.family_table > distrain/config/models/transformers/families.json

A test compares the table with what the installed transformers says.
"""

import dataclasses
import inspect
import json
import sys
import types
from typing import Any, Union, get_args, get_origin

TESTED = (
    *("deepseek_v3", "gemma2", "gemma3_text", "gpt2", "gpt_neox", "gpt_oss", "granite", "llama"),
    *("mistral", "mixtral", "olmo2", "phi3", "qwen2", "qwen3", "qwen3_moe", "smollm3"),
)
"""Families whose packed documents, gradients, resumes and exports are compared in the tests."""
NOT_OF_TRAINING = frozenset(
    {
        *("vocab_size", "use_cache", "pretraining_tp", "add_cross_attention", "is_decoder"),
        *("bos_token_id", "eos_token_id", "pad_token_id", "num_mtp_layers", "classifier_dropout"),
        *("use_bidirectional_attention",),
    }
)
"""Settings that the tokenizer decides, or that name another use of the module."""
INTERFACE = "ALL_ATTENTION_FUNCTIONS"
"""The table of attention functions, as it is called in a family's file."""
STACKED = "@use_experts_implementation"
"""What stands above the class of experts whose weights are one tensor for all of a layer."""


def make_table() -> dict[str, Any]:
    """Read the tested families, and which others go through the attention interface."""
    from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING, __version__
    from transformers.activations import ACT2FN
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    others, refused = [], {}
    for model_type in sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.keys() - set(TESTED)):
        section = CONFIG_MAPPING[model_type]
        family = MODEL_FOR_CAUSAL_LM_MAPPING[section]
        if INTERFACE not in inspect.getsource(sys.modules[family.__module__]):
            refused[model_type] = "attention of its own"
        elif section.sub_configs:
            refused[model_type] = "parts beside the language model"
        else:
            others.append(model_type)
    return {
        "transformers": __version__,
        "activations": sorted(ACT2FN),
        "families": {model_type: describe(model_type) for model_type in TESTED},
        "others": others,
        "stacked_experts": sorted(filter(stacks_experts, (*TESTED, *others))),
        "refused": refused,
        "tensor_plans": {name: plan for name in others if (plan := tensor_plan(name))},
    }


def stacks_experts(model_type: str) -> bool:
    """Return whether a family keeps each weight of all experts of a layer in one tensor."""
    from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING

    family = MODEL_FOR_CAUSAL_LM_MAPPING[CONFIG_MAPPING[model_type]]
    return STACKED in inspect.getsource(sys.modules[family.__module__])


def describe(model_type: str) -> dict[str, Any]:
    """Describe one family: its keys with types and defaults, and its linear layers."""
    from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING, PretrainedConfig

    section = CONFIG_MAPPING[model_type]
    shared = {field.name for field in dataclasses.fields(PretrainedConfig)}
    keys = {
        field.name: {"types": type_words(field.type), "default": default_of(section, field)}
        for field in dataclasses.fields(section)
        if field.name not in shared | NOT_OF_TRAINING
    }
    synonyms = {
        other: own
        for other, own in section.attribute_map.items()
        if own in keys and other not in keys
    }
    return {
        "architecture": MODEL_FOR_CAUSAL_LM_MAPPING[section].__name__,
        "keys": dict(sorted(keys.items())),
        "synonyms": synonyms,
        "linear_layers": linear_layers(model_type),
        "tensor_plan": tensor_plan(model_type),
    }


def tensor_plan(model_type: str) -> dict[str, str]:
    """Return how the family says that its layers are cut; nothing where it does not."""
    from transformers import CONFIG_MAPPING

    return dict(CONFIG_MAPPING[model_type].base_model_tp_plan or {})


def default_of(section: Any, field: "dataclasses.Field[Any]") -> object:  # noqa: ANN401
    """Return what a key has that a configuration leaves out.

    Values that follow from others, such as a list of layer types, stay null: the family's rule
    makes them of the sizes that there are. The rotary parameters follow from the family alone.
    """
    if field.name == "rope_parameters":
        return getattr(section(), field.name)
    return field.default


def linear_layers(model_type: str) -> list[str]:
    """Return the last parts of the names of linear layers in blocks, whatever its options are."""
    import torch
    from torch import nn
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM
    from transformers.pytorch_utils import Conv1D

    from distrain.models.weights.family_layout import expert_layers

    found: set[str] = set()
    # Options of some families, which others pass over: a plain feed-forward layer, another query.
    for options in ({"mlp_only_layers": [0]}, {"q_lora_rank": None}):
        config = CONFIG_MAPPING[model_type](num_hidden_layers=4, **options)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        head = model.get_output_embeddings()
        found |= {
            name.rpartition(".")[2]
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear | Conv1D) and module is not head
        } - expert_layers(model)
    return sorted(found)


def type_words(annotation: Any) -> list[str]:  # noqa: ANN401
    """Name the JSON types that an annotation allows."""
    if get_origin(annotation) in (Union, types.UnionType):
        members = get_args(annotation)
    else:
        members = (annotation,)
    words = {_word(member) for member in members}
    return sorted(words | ({"int"} if "float" in words else set()))


def _word(member: Any) -> str:  # noqa: ANN401
    plain = get_origin(member) or member
    if plain is types.NoneType:
        return "null"
    return plain.__name__ if plain in (int, float, bool, str, list) else "dict"


def as_text(table: dict[str, Any]) -> str:
    """Write the table, one line a key of a family, and a plan."""
    parts = []
    for model_type, family in table["families"].items():
        keys = [f"    {json.dumps(key)}: {json.dumps(of)}" for key, of in family["keys"].items()]
        rest = [f"   {json.dumps(k)}: {json.dumps(v)}" for k, v in family.items() if k != "keys"]
        body = ",\n".join([*rest, '   "keys": {\n' + ",\n".join(keys) + "\n   }"])
        parts.append(f"  {json.dumps(model_type)}: {{\n{body}\n  }}")
    plans = [f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in table["tensor_plans"].items()]
    long = {"tensor_plans": plans, "families": parts}
    rest = [f" {json.dumps(k)}: {json.dumps(v)}" for k, v in table.items() if k not in long]
    rest += [f" {json.dumps(k)}: {{\n" + ",\n".join(v) + "\n }" for k, v in long.items()]
    return "{\n" + ",\n".join(rest) + "\n}\n"


def main() -> None:
    """Print the table."""
    sys.stdout.write(as_text(make_table()))


if __name__ == "__main__":
    main()
