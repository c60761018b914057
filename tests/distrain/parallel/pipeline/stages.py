"""A model whole and in stages, and microbatches of unequal lengths with several documents a row."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from distrain.config.models import LlamaConfig, ModelConfig
from distrain.config.pipeline import cut_layers
from distrain.models import build_model
from distrain.models.attention import DocumentLayout
from distrain.models.causal_lm import CausalLM
from distrain.parallel.pipeline.anatomy import observe
from distrain.parallel.pipeline.cut import Inbox, cut_pipeline
from tests.distrain.models.layouts import layout_of_lengths
from tests.distrain.models.transformers.families import VOCAB_SIZE, bend, section

OWN = "own llama, tied"


@dataclass(frozen=True)
class Part:
    """A microbatch."""

    ids: Tensor
    targets: Tensor
    documents: DocumentLayout


def config_of(name: str, layers: int = 2) -> ModelConfig:
    if name != OWN:
        return section(name)
    return LlamaConfig(
        hidden_size=32,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
        tie_word_embeddings=True,
    )


def parts_of(count: int) -> list[Part]:
    generator = torch.Generator().manual_seed(11)
    parts = []
    for number in range(count):
        length = 20 + 4 * (number % 3)
        ids, targets = torch.randint(0, VOCAB_SIZE, (2, 2, length), generator=generator)
        documents = layout_of_lengths([[7, length - 7], [length - 3, 3]])
        parts.append(Part(ids, targets, documents))
    return parts


def on_meta(config: ModelConfig) -> Any:
    with torch.device("meta"):
        return build_model(config, VOCAB_SIZE)


def whole_model(config: ModelConfig) -> Any:
    model = build_model(config, VOCAB_SIZE)
    bend(model)
    return model


def stage_of(config: ModelConfig, number: int, count: int) -> tuple[Any, Inbox]:
    """Cut one of ``count`` stages, with the values of ``whole_model``."""
    anatomy = observe(on_meta(config))
    model, whole = build_model(config, VOCAB_SIZE), whole_model(config)
    values = dict(whole.named_parameters()) | dict(whole.named_buffers())
    inbox = cut_pipeline(model, anatomy, cut_layers(len(anatomy.layers), 0.0, count), number)
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            tensor.copy_(values[model.copies.get(name, name)])
    return model, inbox


def loss_of(model: CausalLM, part: Part) -> Tensor:
    losses: Tensor = model(part.ids, target_ids=part.targets, rows=[2], documents=part.documents)
    return losses
