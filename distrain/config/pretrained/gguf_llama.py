"""A GGUF file of the Llama family in Hugging Face's words: ``config.json``, names, shapes."""

import math
import struct
from typing import Any

from distrain.config.pretrained.gguf_file import GgufArray, GgufFile, gguf_error
from distrain.errors import PreflightError

ARCHITECTURE = "llama"
"""``general.architecture``: Llama 1 to 3, Mistral, SmolLM and others with their layers."""

SIZES = {
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "max_position_embeddings": "context_length",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
}
"""Field of ``config.json`` -> key under ``llama.``; each is needed."""

BLOCK_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""Tensor of a block, ``blk.N.``, and what it is called under ``model.layers.N.``."""
ROTARY_FACTORS = "rope_freqs.weight"
"""By what the wave lengths of the rotary embedding are multiplied (Llama 3.1 and later)."""
LLAMA3 = {
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
"""The same in all of Llama 3.1 to 3.3; a file holds the resulting factors alone."""

TOKENIZERS = {"gpt2": "byte-level BPE", "llama": "SentencePiece"}
TOKENS = "tokenizer.ggml.tokens"
BY_DIGIT = frozenset(
    {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"}
)
"""``tokenizer.ggml.pre`` of tokenizers to which each digit is a word, all else as to GPT-2's."""
LIKE_GPT2 = frozenset({None, "gpt-2", "phi-2", "olmo", "mellum", "trillion"})
WORDS = frozenset(
    {
        *BY_DIGIT,
        *LIKE_GPT2,
        *("llama3", "llama-v3", "llama-bpe", "falcon3", "pixtral", "smaug-bpe", "dbrx", "tekken"),
        *("qwen2", "deepseek-r1-qwen", "gpt-4o", "llama4"),
    }
)
"""Ways to cut text into words of bytes that can be rebuilt; another one would give other ids."""
END_KEYS = ("eos_token_id", "eot_token_id")


def config_fields(file: GgufFile) -> dict[str, Any]:
    """Return what ``config.json`` of the same model says.

    Raises:
        PreflightError: The model is of another architecture, or the file lacks a size or a tensor.
    """
    _check_architecture(file)
    fields = {name: _size(file, key) for name, key in SIZES.items()}
    heads, width = fields["num_attention_heads"], fields["hidden_size"]
    key_heads = _number(file, "attention.head_count_kv", heads)
    head_dim = _number(file, "attention.key_length", 0)
    head_dim = head_dim or _number(file, "rope.dimension_count", width // heads)
    rope = {"rope_type": "default", "rope_theta": _number(file, "rope.freq_base", 10000.0)}
    if ROTARY_FACTORS in file.tensors:
        rope |= _llama3_scaling(file, head_dim, rope["rope_theta"])
    elif file.metadata.get("llama.rope.scaling.type", "none") != "none":
        kind = file.metadata["llama.rope.scaling.type"]
        raise _refused(file, f"llama.rope.scaling.type {kind!r}", "positions that are not scaled")
    rows = file.tensors["token_embd.weight"].shape[0] if "token_embd.weight" in file.tensors else 0
    fields |= {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "num_key_value_heads": key_heads,
        "head_dim": head_dim,
        "vocab_size": rows,
        "hidden_act": "silu",
        "attention_bias": "blk.0.attn_q.bias" in file.tensors,
        "mlp_bias": False,
        "rope_theta": rope["rope_theta"],
        "rope_parameters": rope,
        "tie_word_embeddings": "output.weight" not in file.tensors,
        **special_ids(file),
    }
    _check_tensors(file, fields)
    return fields


def special_ids(file: GgufFile) -> dict[str, Any]:
    """Return the ids with which texts begin, end and are filled up; those the file names."""
    ids = {key: file.metadata.get(f"tokenizer.ggml.{key}") for key in END_KEYS}
    ends = list(dict.fromkeys(number for number in ids.values() if number is not None))
    found = {
        "bos_token_id": file.metadata.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": ends[0] if len(ends) == 1 else ends or None,
        "pad_token_id": file.metadata.get("tokenizer.ggml.padding_token_id"),
    }
    return {name: value for name, value in found.items() if value is not None}


def tensor_names(layers: int, *, biased: bool = False) -> dict[str, str]:
    """Return the name on the Hugging Face side of each tensor; ``output.weight`` may be missing."""
    names = {
        "token_embd.weight": "model.embed_tokens.weight",
        "output_norm.weight": "model.norm.weight",
        "output.weight": "lm_head.weight",
    }
    for layer in range(layers):
        for short, name in BLOCK_NAMES.items():
            names[f"blk.{layer}.{short}.weight"] = f"model.layers.{layer}.{name}.weight"
            if biased and short.startswith("attn_") and short != "attn_norm":
                names[f"blk.{layer}.{short}.bias"] = f"model.layers.{layer}.{name}.bias"
    return names


def vocabulary_size(file: GgufFile) -> int:
    """Return how many ids the tokenizer has that the file holds.

    Raises:
        PreflightError: It holds none, or of another kind.
    """
    kind, tokens = file.metadata.get("tokenizer.ggml.model"), file.metadata.get(TOKENS)
    if kind not in TOKENIZERS or not isinstance(tokens, GgufArray | list):
        known = " or ".join(f"{name!r} ({words})" for name, words in TOKENIZERS.items())
        raise gguf_error(
            file.path,
            f"tokenizer.ggml.model {kind!r}" if tokens is not None else f"no {TOKENS}",
            f"a tokenizer of the model {known}",
            "Choose a file that holds its tokenizer.",
        )
    words = file.metadata.get("tokenizer.ggml.pre")
    if kind == "gpt2" and words not in WORDS:
        raise gguf_error(
            file.path,
            f"tokenizer.ggml.pre {words!r}",
            f"one of {', '.join(sorted(filter(None, WORDS)))}",
            "Take the model's Hugging Face folder, which holds its tokenizer.json.",
        )
    return tokens.length if isinstance(tokens, GgufArray) else len(tokens)


def _check_architecture(file: GgufFile) -> None:
    found = file.metadata.get("general.architecture")
    if found != ARCHITECTURE:
        raise _refused(file, f"general.architecture {found!r}", f"{ARCHITECTURE!r}")
    if file.metadata.get("llama.expert_count"):
        raise _refused(file, "a mixture of experts", "one feed-forward layer a block")


def _refused(file: GgufFile, found: str, expected: str) -> PreflightError:
    return gguf_error(
        file.path,
        found,
        expected,
        "Take the model's Hugging Face folder (safetensors) instead of its GGUF file.",
    )


def _size(file: GgufFile, key: str) -> Any:  # noqa: ANN401  (a whole number, or an epsilon)
    value = file.metadata.get(f"llama.{key}")
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        found = f"llama.{key} {value!r}" if value is not None else f"no llama.{key}"
        raise gguf_error(file.path, found, "the sizes of a Llama model")
    return _shortest(value) if isinstance(value, float) else value


def _number(file: GgufFile, key: str, default: float) -> Any:  # noqa: ANN401  (as the default is)
    value = file.metadata.get(f"llama.{key}", default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _refused(file, f"llama.{key} {value!r}", "one number for all blocks")
    return _shortest(value) if isinstance(value, float) else value


def _shortest(value: float) -> float:
    """Return the shortest decimal with the same 32 bits: 1e-05, not 9.999999747378752e-06."""
    bits = struct.pack("<f", value)
    for digits in range(1, 10):
        short = float(f"{value:.{digits}g}")
        if struct.pack("<f", short) == bits:
            return short
    return value


def _llama3_scaling(file: GgufFile, head_dim: int, theta: float) -> dict[str, Any]:
    """Find the settings of which Llama 3's rule makes the file's factors."""
    found = file.read_floats(ROTARY_FACTORS)
    scaling = {"rope_type": "llama3", "factor": max(found), **LLAMA3}
    wanted = [_llama3_factor(scaling, theta ** (2 * i / head_dim)) for i in range(head_dim // 2)]
    if len(found) != len(wanted) or not all(
        math.isclose(a, b, rel_tol=1e-4) for a, b in zip(found, wanted, strict=True)
    ):
        raise _refused(file, f"other factors in {ROTARY_FACTORS}", "those of Llama 3.1 to 3.3")
    return scaling


def _llama3_factor(scaling: dict[str, Any], wave: float) -> float:
    """As ``_compute_llama3_parameters`` of transformers; ``wave`` is the wave length / 2 pi."""
    old = float(scaling["original_max_position_embeddings"])
    low, high = float(scaling["low_freq_factor"]), float(scaling["high_freq_factor"])
    turns = old / (2 * math.pi * wave)
    if turns >= high:
        return 1.0
    if turns <= low:
        return float(scaling["factor"])
    smooth = (turns - low) / (high - low)
    return 1.0 / ((1 - smooth) / float(scaling["factor"]) + smooth)


def _check_tensors(file: GgufFile, fields: dict[str, Any]) -> None:
    """Compare the table of tensors with the sizes."""
    expected = _shapes(fields)
    if fields["tie_word_embeddings"]:
        del expected["output.weight"]
    missing = sorted(expected.keys() - file.tensors.keys())
    surplus = sorted(file.tensors.keys() - expected.keys() - {ROTARY_FACTORS})
    if missing or surplus:
        raise gguf_error(
            file.path,
            f"{len(missing)} tensors missing {missing[:3]}, {len(surplus)} others {surplus[:3]}",
            f"the {len(expected)} tensors of a Llama model with {fields['num_hidden_layers']} "
            "blocks",
        )
    for name, shape in expected.items():
        if file.tensors[name].shape != shape:
            raise gguf_error(
                file.path, f"{name} of shape {file.tensors[name].shape}", f"{shape}, as sizes say"
            )


def _shapes(fields: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    width, inner, rows = fields["hidden_size"], fields["intermediate_size"], fields["vocab_size"]
    queries = fields["num_attention_heads"] * fields["head_dim"]
    keys = fields["num_key_value_heads"] * fields["head_dim"]
    of_kind: dict[str, tuple[int, ...]] = {
        "attn_norm": (width,),
        "ffn_norm": (width,),
        "attn_q": (queries, width),
        "attn_k": (keys, width),
        "attn_v": (keys, width),
        "attn_output": (width, queries),
        "ffn_gate": (inner, width),
        "ffn_up": (inner, width),
        "ffn_down": (width, inner),
        "token_embd": (rows, width),
        "output": (rows, width),
        "output_norm": (width,),
    }
    shapes = {}
    for name in tensor_names(fields["num_hidden_layers"], biased=fields["attention_bias"]):
        kind, ending = name.split(".")[-2:]
        shapes[name] = of_kind[kind] if ending == "weight" else of_kind[kind][:1]
    return shapes
