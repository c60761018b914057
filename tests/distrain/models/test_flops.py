"""What a trained token costs beside frozen weights, against the products that torch counts."""

from fnmatch import fnmatch

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from distrain.config.lora import LoraConfig
from distrain.config.models import LlamaConfig
from distrain.finetune.lora import inject_lora, target_layers
from distrain.models import build_model, model_on_meta
from distrain.models.flops import flops_of_training, matrices_of
from tests.distrain.models.transformers.families import FAMILIES, VOCAB_SIZE, section

MODEL = LlamaConfig(
    hidden_size=32,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=44,
)
LENGTH = 16


def counted(model):
    """Return the operations of a token, forward and backward, as torch counts them."""
    ids = torch.arange(2 * LENGTH).view(2, LENGTH)
    # Unfused attention, because torch does not count the fused one of the CPU.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model.train()(ids).sum().backward()
    return counter.get_total_flops() / ids.numel()


def said(lora):
    shapes = model_on_meta(MODEL, VOCAB_SIZE)
    ranks = {layer: lora.rank_of(layer) for layer in target_layers(shapes, lora)}
    return flops_of_training(shapes, LENGTH, lora.saves, ranks)


def with_adapters(lora):
    return inject_lora(build_model(MODEL, VOCAB_SIZE), lora, seed=1)


def test_beside_adapters_frozen_weights_need_no_gradient_of_their_own():
    lora = LoraConfig(r=4, modules_to_save=("embed_tokens", "lm_head"))
    assert counted(with_adapters(lora)) == pytest.approx(said(lora), rel=1e-9)
    # Less than all of it would cost, though adapters are large beside so small a model.
    assert said(lora) < 0.95 * model_on_meta(MODEL, VOCAB_SIZE).flops_per_token(LENGTH)


@pytest.mark.parametrize("targets", ["all-linear", r".*layers\.[23]\..*"])
def test_below_the_lowest_adapter_nothing_needs_a_gradient(targets):
    lora = LoraConfig(r=4, target_modules=targets)
    first = MODEL.hidden_size * 64 * 2  # queries, keys and values of that block: their input's
    first += 3 * 2 * 4 * MODEL.hidden_size  # and that of their adapters
    assert said(lora) - counted(with_adapters(lora)) == pytest.approx(first, rel=1e-9)


@pytest.mark.parametrize("frozen", ["model.layers.*", "model.layers.[01].*", "*embed*"])
def test_frozen_parameters_without_adapters(frozen):
    model = build_model(MODEL, VOCAB_SIZE)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not fnmatch(name, frozen))
    found = flops_of_training(
        model_on_meta(MODEL, VOCAB_SIZE), LENGTH, lambda name: not fnmatch(name, frozen)
    )
    assert counted(model) == pytest.approx(found, rel=1e-9)


@pytest.mark.parametrize("tied", [False, True])
def test_where_everything_is_trained_it_is_the_rule_of_the_family(tied):
    shapes = model_on_meta(MODEL.model_copy(update={"tie_word_embeddings": tied}), VOCAB_SIZE)
    assert flops_of_training(shapes, LENGTH, lambda _: True) == shapes.flops_per_token(LENGTH)
    top = flops_of_training(shapes, LENGTH, lambda name: "layers" not in name)
    assert top < shapes.flops_per_token(LENGTH)


@pytest.mark.models
@pytest.mark.parametrize("name", FAMILIES)
def test_matrices_are_those_that_a_family_counts(name):
    shapes = model_on_meta(section(name), VOCAB_SIZE)
    assert flops_of_training(shapes, LENGTH, lambda _: True) == pytest.approx(
        shapes.flops_per_token(LENGTH)
    )
    assert sum(used for _, used in matrices_of(shapes, shapes.experts_of_a_token)) > 0
