"""Layers 4 and 5: single-device model code; ``parallel`` lays it over ranks."""

from distrain.config.models import ModelConfig
from distrain.models.causal_lm import CausalLM
from distrain.models.llama import Llama
from distrain.models.transformers.model import TransformersLM

MODELS: dict[str, type[CausalLM]] = {"llama": Llama, "transformers": TransformersLM}


def build_model(config: ModelConfig, vocab_size: int) -> CausalLM:
    """Build the model that a recipe names, on the current default device (``meta`` included).

    The values of its parameters mean nothing until ``initialize`` or a checkpoint sets them.
    """
    return MODELS[config.name](config, vocab_size)
