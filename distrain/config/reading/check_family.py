"""Whether a family of transformers has the settings that a recipe states, by its table. Pure."""

from collections.abc import Iterator

from distrain.config.models import TransformersConfig
from distrain.config.models.transformers.section import refused_family
from distrain.config.models.transformers.table import (
    FamilyKey,
    FamilyKeys,
    FamilyTable,
    family_table,
)
from distrain.config.reading.stage_parts import Finding, StageParts
from distrain.config.reading.suggest import nearest

TYPES = {"int": int, "float": float, "bool": bool, "str": str, "list": list, "dict": dict}
WORDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "list": "a list",
    "dict": "a mapping",
    "null": "null",
}
ACTIVATIONS = frozenset({"activation_function", "hidden_act", "hidden_activation"})
BY_TOKENIZER = "the tokenizer decides it; remove it"
ELSEWHERE = {
    "vocab_size": BY_TOKENIZER,
    **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), BY_TOKENIZER),
    "rope_theta": "write it in rope_parameters: {rope_type: default, rope_theta: 10000.0}",
    "rope_scaling": "write it as rope_parameters, with rope_type and rope_theta",
    "torch_dtype": "training.precision says it",
    "dtype": "training.precision says it",
    "use_cache": "generation alone keeps keys and values; remove it",
    "attn_implementation": "attention is chosen by the documents, the device and the family",
}
"""Keys of a ``config.json`` that a recipe does not set there -> what to do."""


def check_family(stage: StageParts) -> Iterator[Finding]:
    """Check the family's name, then each of its settings, where a model begins or states rates."""
    model = stage.get("model", TransformersConfig)
    if model is None:
        return
    table = family_table()
    if model.model_type in table.refused:
        refusal = refused_family(model.model_type, table.refused[model.model_type])
        message = f"found {refusal.found}; expected {refusal.expected}. {refusal.remedy}"
        yield Finding(stage.name, ("model", "model_type"), f"model.model_type: {message}")
    elif model.model_type not in table.known:
        yield Finding(stage.name, ("model", "model_type"), _unknown_family(model.model_type, table))
    elif model.family is not None:
        for key, value in model.config.items():
            path, own = ("model", "config", key), model.family.own_name(key)
            if own not in model.family.keys:
                message = _unknown_key(key, model.model_type, model.family)
                yield Finding(stage.name, path, message, at_key=True)
            elif own != key and own in model.config:
                message = f"model.config: {key} and {own} are the same setting; remove one"
                yield Finding(stage.name, path, message, at_key=True)
            else:
                problem = _problem(key, value, model.family.keys[own])
                if problem is not None:
                    yield Finding(stage.name, path, problem)
        yield from _check_heads(stage.name, model)


def _unknown_family(word: str, table: FamilyTable) -> str:
    near = nearest(word, table.known)
    hint = f"did you mean '{near}'?" if near else f"such as {', '.join(table.families)}"
    return (
        f"unknown model.model_type '{word}'; expected a causal family of transformers "
        f"{table.release}; {hint}"
    )


def _unknown_key(key: str, model_type: str, family: FamilyKeys) -> str:
    if key in ELSEWHERE:
        return f"model.config has no key '{key}': {ELSEWHERE[key]}"
    near = nearest(key, (*family.keys, *family.synonyms))
    hint = f"did you mean '{near}'?" if near else f"known keys: {', '.join(family.keys)}"
    return f"unknown key '{key}' in model.config of {model_type}; {hint}"


def _problem(key: str, value: object, known: FamilyKey) -> str | None:
    """Say what is wrong with the value of a key that the family has."""
    if not _is_of(value, known.types):
        expected = " or ".join(WORDS[word] for word in known.types)
        return f"model.config.{key}: found {_shown(value)}; expected {expected}"
    words = family_table().activations
    if key in ACTIVATIONS and isinstance(value, str) and value not in words:
        near = nearest(value, words)
        hint = f"did you mean '{near}'?" if near else f"expected one of {', '.join(words)}"
        return f"unknown model.config.{key} '{value}'; {hint}"
    is_size = type(known.default) is int and known.default > 0
    if is_size and isinstance(value, int) and value < 1:
        return f"model.config.{key}: found {value}; expected a whole number of at least 1"
    return None


def _is_of(value: object, words: tuple[str, ...]) -> bool:
    if value is None:
        return "null" in words
    if isinstance(value, bool):
        return "bool" in words
    return any(isinstance(value, TYPES[word]) for word in words if word not in ("null", "bool"))


def _shown(value: object) -> str:
    if value is None:
        return "null"
    return f"the text '{value}'" if isinstance(value, str) else str(value)


def _check_heads(name: str, model: TransformersConfig) -> Iterator[Finding]:
    """Check that heads share the width, and queries their keys; families divide without asking."""
    size, heads, groups, head_dim = (
        model.value_of(key)
        for key in ("hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim")
    )
    if not (isinstance(size, int) and isinstance(heads, int)) or size < 1 or heads < 1:
        return
    assert model.family is not None, "of the table"
    setting = model.family.own_name("num_attention_heads")
    is_latent = model.value_of("kv_lora_rank") is not None
    if not head_dim and not is_latent and size % heads:
        message = (
            f"model.config.{setting}: found {heads}; expected a divisor of "
            f"{model.family.own_name('hidden_size')} {size}"
        )
        yield Finding(name, ("model", "config", setting), message)
    if isinstance(groups, int) and groups > 0 and heads % groups:
        message = (
            f"model.config.num_key_value_heads: found {groups}; expected a divisor of {setting} "
            f"{heads}: {', '.join(str(n) for n in range(1, heads + 1) if heads % n == 0)}"
        )
        yield Finding(name, ("model", "config", "num_key_value_heads"), message)
