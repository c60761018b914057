"""Layers in 4 bits compute what their values after the loss of bits compute."""

import pytest
import torch

from distrain.config.lora import LoraConfig, QuantizationConfig
from distrain.config.models import TransformersConfig
from distrain.errors import RecipeError
from distrain.finetune.card import model_card
from distrain.finetune.lora import inject_lora, plain_name, tuned_state
from distrain.finetune.merged import Magnitudes, merge
from distrain.finetune.quantized import (
    DequantizedWeights,
    build_quantized,
    dequantize,
    quantize,
    quantized_weights,
)
from distrain.models.llama import Llama
from distrain.models.weights.filling import build_empty
from distrain.models.weights.source import TensorWeights, read_all
from tests.distrain.finetune.test_lora import IDS, VOCAB_SIZE, base_model
from tests.distrain.finetune.test_lora import MODEL as SMALL

MODEL = SMALL.model_copy(update={"hidden_size": 64, "intermediate_size": 128})
CONFIG = QuantizationConfig()
QLORA = LoraConfig(r=4, alpha=12, use_dora=True, quantization=CONFIG)
NAMES = quantized_weights(MODEL, VOCAB_SIZE, QLORA)
SOURCE = TensorWeights({name: p.detach() for name, p in base_model(MODEL).named_parameters()})
LOST = DequantizedWeights(SOURCE, NAMES, CONFIG)


def quantized_model():
    model = build_empty(MODEL, VOCAB_SIZE)
    return build_quantized(model, SOURCE, NAMES, CONFIG, torch.float32).eval()


def plain_model(state):
    model = Llama(MODEL, VOCAB_SIZE).eval()
    model.load_state_dict(state, strict=False)
    return model


@torch.no_grad()
def test_a_quantized_model_computes_with_the_values_that_are_left():
    model = quantized_model()
    assert {type(model.get_submodule(n.removesuffix(".weight"))).__name__ for n in NAMES} == {
        "Linear4bit"
    }
    codes = sum(model.get_parameter(name).nbytes for name in NAMES)
    assert codes == sum(SOURCE.forms[name].on_meta().numel() for name in NAMES) // 2
    left = plain_model(read_all(LOST))(IDS)
    torch.testing.assert_close(model(IDS), left, rtol=0, atol=1e-5)
    assert (left - base_model(MODEL)(IDS)).abs().max() > 1e-2  # the control: bits are lost


def test_the_codes_are_those_of_bitsandbytes_and_the_same_however_a_weight_is_read():
    import bitsandbytes

    weight = SOURCE.read("model.layers.0.mlp.up_proj.weight")
    for double in (True, False):
        own, state = quantize(weight, QuantizationConfig(use_double_quant=double))
        theirs, expected = bitsandbytes.functional.quantize_4bit(
            weight, blocksize=64, quant_type="nf4", compress_statistics=double
        )
        assert torch.equal(own, theirs)
        values = bitsandbytes.functional.dequantize_4bit(theirs, expected)
        torch.testing.assert_close(dequantize(own, state), values, rtol=1e-5, atol=1e-6)
        assert 0.05 < (values - weight).norm() / weight.norm() < 0.12
    for name in NAMES:
        assert torch.equal(LOST.read(name, (slice(3, 9), slice(2, 5))), LOST.read(name)[3:9, 2:5])


def test_adapters_beside_it_are_merged_into_what_was_left():
    model = inject_lora(quantized_model(), QLORA, seed=7)
    trained = {plain_name(name) for name, p in model.named_parameters() if p.requires_grad}
    assert trained == tuned_state(model, QLORA).keys()
    starts = read_all(Magnitudes(LOST, [name for name in trained if "magnitude" in name]))
    for name, start in starts.items():
        torch.testing.assert_close(start, tuned_state(model, QLORA)[name], rtol=1e-6, atol=0)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    model(IDS).square().mean().backward()
    assert all((p.grad is not None) == p.requires_grad for p in model.parameters())
    state = tuned_state(model, QLORA)
    with torch.no_grad():
        merged = plain_model(merge(read_all(LOST), state, QLORA))(IDS)
        torch.testing.assert_close(merged, model(IDS), rtol=0, atol=1e-4)
        wrong = plain_model(merge(read_all(SOURCE), state, QLORA))(IDS)
        assert (wrong - merged).abs().max() > 1e-2


def test_what_cannot_be_quantized_is_refused():
    gpt2 = TransformersConfig(model_type="gpt2", config={"n_layer": 1, "n_embd": 32, "n_head": 2})
    with pytest.raises(RecipeError, match="no frozen linear layer with a multiple of 64 inputs"):
        quantized_weights(SMALL, VOCAB_SIZE, QLORA)
    with pytest.raises(RecipeError, match="a model of gpt2, whose layers have their inputs first"):
        quantized_weights(gpt2, VOCAB_SIZE, QLORA)


def test_the_card_says_how_it_was_merged():
    card = model_card(QLORA, {torch.bfloat16}, "base", "adapter")
    assert "Trained with DoRA: rank 4, alpha 12" in card
    assert "rounded once, to bfloat16: by at most\n2^-8 of its value" in card
    assert "beside weights of 4 bits (nf4)" in card
    assert "4 bits" not in model_card(LoraConfig(), {torch.float32}, "base", "adapter")
