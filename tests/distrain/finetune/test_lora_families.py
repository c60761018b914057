"""Adapters of families of transformers: trained beside any linear layer, merged, and exported."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from distrain.config.lora import LoraConfig
from distrain.finetune.adapter_files import save_adapter
from distrain.finetune.lora import inject_lora, is_adapter, plain_name
from distrain.finetune.merged import merge, transposed_layers
from distrain.models.huggingface import save_huggingface
from distrain.models.initial_values import keyed_generator
from distrain.models.origin import SpecialTokens
from tests.distrain.models.transformers.families import (
    EXPERTS,
    FAMILIES,
    VOCAB_SIZE,
    bent,
    section,
)

LORA = LoraConfig(r=4, alpha=12)
IDS = torch.randint(VOCAB_SIZE, (2, 40), generator=torch.Generator().manual_seed(0))
QUICK = ("gpt2",)
every_family = pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in QUICK else pytest.mark.models) for name in FAMILIES],
)

FOREIGN = """
import sys, torch, transformers, peft
torch.set_num_threads(1)
transformers.logging.set_verbosity_error()
for folder in sys.argv[1:]:
    ids = torch.load("ids.pt")
    load = transformers.AutoModelForCausalLM.from_pretrained
    models = {"base": load(folder + "/base"), "merged": load(folder + "/merged")}
    models = {name: model.eval() for name, model in models.items()}
    with torch.no_grad():
        logits = {name: model(ids).logits for name, model in models.items()}
        adapted = peft.PeftModel.from_pretrained(models["base"], folder + "/adapter").eval()
        logits["adapted"] = adapted(ids).logits
    torch.save(logits, folder + "/logits.pt")
assert "distrain" not in sys.modules
"""


def adapted(name):
    """Return a model with adapters that have values, and their state."""
    model = inject_lora(bent(name), LORA, seed=3).eval()
    adapter = {}
    with torch.no_grad():
        for own, parameter in model.named_parameters():
            if is_adapter(plain_name(own)):
                noise = torch.randn(parameter.shape, generator=keyed_generator(own))
                adapter[plain_name(own)] = parameter.copy_(noise * 0.1).detach()
    return model, adapter


@every_family
@torch.no_grad()
def test_merged_weights_compute_what_adapters_compute(name):
    model, adapter = adapted(name)
    plain = bent(name)
    state = {key: value.clone() for key, value in plain.state_dict().items()}
    before = plain(IDS)
    merged = merge(state, adapter, LORA, transposed_layers(section(name), VOCAB_SIZE))
    plain.load_state_dict(merged)
    assert (plain(IDS) - model(IDS)).abs().max() < 5e-5
    assert (before - model(IDS)).abs().max() > 1e-2


def test_without_turning_them_gpt2s_square_layers_would_be_merged_wrongly():
    model, adapter = adapted("gpt2")
    square = {key: value for key, value in adapter.items() if "attn.c_proj" in key}
    plain = bent("gpt2")
    wrong = merge(plain.state_dict(), square, LORA)
    right = merge(plain.state_dict(), square, LORA, model.transposed_layers | _layers(square))
    assert wrong.keys() == right.keys()
    assert not wrong["transformer.h.0.attn.c_proj.weight"].equal(
        right["transformer.h.0.attn.c_proj.weight"]
    )


def _layers(adapter):
    return {key.rpartition(".lora_")[0] for key in adapter}


@pytest.mark.parametrize("name", [n for n in FAMILIES if n in (*EXPERTS, "gpt2", "qwen3")])
def test_only_linear_layers_are_adapted_and_the_rest_is_frozen(name):
    model, adapter = adapted(name)
    trained = {plain_name(own) for own, p in model.named_parameters() if p.requires_grad}
    assert trained == adapter.keys()
    assert not any("experts." in key and "shared" not in key for key in adapter)
    assert not any(key.startswith(model.output_layer_name) for key in adapter)
    kinds = {type(layer.base_layer).__name__ for layer in model.modules() if _is_adapted(layer)}
    assert kinds == ({"Conv1D"} if name == "gpt2" else {"Linear"})


def _is_adapted(layer):
    return isinstance(layer, nn.Module) and hasattr(layer, "lora_A")


def write(name, folder):
    """Write base, adapter and merged model as export does; return the logits of the last."""
    _, adapter = adapted(name)
    plain, config, special = bent(name), section(name), SpecialTokens(0, 1, None)
    kept = {key: value for key, value in plain.state_dict().items() if not plain.is_tied(key)}
    save_huggingface(kept, config, VOCAB_SIZE, folder / "base", special)
    save_adapter(adapter, LORA, plain, "base", folder / "adapter")
    merged = merge(kept, adapter, LORA, plain.transposed_layers)
    save_huggingface(merged, config, VOCAB_SIZE, folder / "merged", special)
    with torch.no_grad():
        before = plain(IDS)
        plain.load_state_dict(merged, strict=False)
        return {"base": before, "merged": plain(IDS), "adapted": plain(IDS)}


@pytest.mark.models
def test_folders_load_without_distrain_with_equal_logits(tmp_path):
    ours = {name: write(name, tmp_path / name) for name in FAMILIES}
    torch.save(IDS, tmp_path / "ids.pt")
    command = [sys.executable, "-I", "-c", FOREIGN, *FAMILIES]
    subprocess.run(command, check=True, timeout=500, cwd=tmp_path)
    differences = {}
    for name, expected in ours.items():
        theirs = torch.load(tmp_path / name / "logits.pt")
        differences[name] = {
            kind: float((expected[kind] - theirs[kind]).abs().max()) for kind in expected
        }
    assert {name: kinds for name, kinds in differences.items() if max(kinds.values()) > 5e-5} == {}
