"""An output layer that was the embedding, given a parameter of its own."""

import torch

from distrain.config.models import ModelConfig
from distrain.models import build_model
from distrain.models.weights.conversion import ConvertedWeights, Rename
from distrain.models.weights.source import WeightSource


def tied_names(config: ModelConfig, vocab_size: int) -> tuple[str, str]:
    """Return the names of embedding and output layer of a model in which they are one parameter."""
    with torch.device("meta"):
        model = build_model(config, vocab_size)
    head = model.output_layer.weight
    named = model.named_parameters(remove_duplicate=False)
    embedding, output = (name for name, parameter in named if parameter is head)
    return embedding, output


def untied(source: WeightSource, embedding: str, output: str) -> WeightSource:
    """Show the embedding's values under the name of the output layer too."""
    names = {name: name for name in source.forms} | {output: embedding}
    return ConvertedWeights(source, [Rename(there, here) for here, there in names.items()])
