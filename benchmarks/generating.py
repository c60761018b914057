"""CPU time of 128 new tokens with kept keys and values, over that of computing the text anew.

``python -m benchmarks.generating``: models of nano size with random weights, a prompt of 16 tokens,
greedily; beside our own Llama two families of transformers, one of them with a window of 64.
"""

import sys
from collections.abc import Callable
from itertools import islice

import torch
from torch import Tensor

from benchmarks.measuring import interleaved, machine_line, median_ratio, table
from distrain.config.models import LlamaConfig, ModelConfig
from distrain.config.models.transformers import TransformersConfig
from distrain.evaluation.generation import LIKELIEST, sample
from distrain.models import build_model
from distrain.models.causal_lm import CausalLM
from distrain.models.init import initialize
from distrain.models.key_value_cache import KeyValueCache

VOCAB_SIZE, PROMPT, NEW = 4096, 16, 128
SIZES = {
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 768,
    "max_position_embeddings": 512,
}
MODELS: dict[str, ModelConfig] = {
    "llama (our own)": LlamaConfig.model_validate(SIZES),
    "qwen3": TransformersConfig(model_type="qwen3", config=SIZES | {"head_dim": 64}),
    "gemma3, window 64": TransformersConfig(
        model_type="gemma3_text", config=SIZES | {"head_dim": 64, "sliding_window": 64}
    ),
}


def writing(model: CausalLM, *, keeps: bool) -> Callable[[], None]:
    """Return what writes the new tokens."""

    def next_hidden_states(input_ids: Tensor, cache: KeyValueCache) -> Tensor:
        return CausalLM.next_hidden_states(model, input_ids, cache)

    def body() -> None:
        own = type(model).next_hidden_states.__get__(model)
        model.next_hidden_states = own if keeps else next_hidden_states  # type: ignore[method-assign]
        assert len(list(islice(sample(model, range(PROMPT), LIKELIEST), NEW))) == NEW

    return body


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    rows = []
    for name, config in MODELS.items():
        model = build_model(config, VOCAB_SIZE).eval()
        initialize(model, seed=0)
        found = interleaved(
            {word: writing(model, keeps=word == "kept") for word in ("kept", "anew")}
        )
        kept, anew = ([sample.cpu_s for sample in found[word]] for word in ("kept", "anew"))
        rows.append([name, f"{median_ratio(kept, anew):.3f}", f"{NEW / min(kept):.0f}"])
    head = ["model", "CPU time, kept / anew", "tokens a second, kept (fastest round)"]
    sys.stdout.write(f"{machine_line()}\n\n{table(head, rows)}\n")


if __name__ == "__main__":
    main()
