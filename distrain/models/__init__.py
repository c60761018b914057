"""Layers 4 and 5: single-device model code; ``parallel`` lays it over ranks."""

import torch

from distrain.config.models import ModelConfig
from distrain.config.training import LossConfig
from distrain.models.causal_lm import CausalLM
from distrain.models.drawing import NoDraws
from distrain.models.llama import Llama
from distrain.models.transformers.model import TransformersLM

MODELS: dict[str, type[CausalLM]] = {"llama": Llama, "transformers": TransformersLM}


def build_model(config: ModelConfig, vocab_size: int, loss: LossConfig | None = None) -> CausalLM:
    """Build the model that a recipe names, on the current default device (``meta`` included).

    The values of its parameters mean nothing until ``initialize`` or a checkpoint sets them.

    Args:
        config: Of the family.
        vocab_size: Rows of the vocabulary.
        loss: How the output layer takes it; by default plain cross-entropy.
    """
    model = MODELS[config.name](config, vocab_size)
    if loss is not None:
        model.output_layer.loss = loss
    return model


def model_on_meta(config: ModelConfig, vocab_size: int) -> CausalLM:
    """Build a model without values: for its names, shapes and counts."""
    with torch.device("meta"), NoDraws():
        return build_model(config, vocab_size)
