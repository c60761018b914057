"""Ranks by pattern, rsLoRA, DoRA, modules trained whole: merged, exported, read by peft alone."""

import json
import subprocess
import sys

import pytest
import torch

from distrain.config.lora import LoraConfig
from distrain.finetune.adapter_files import save_adapter
from distrain.finetune.lora import inject_lora, is_tuned, plain_name, tuned_state
from distrain.finetune.merged import Magnitudes, MergedWeights, merge
from distrain.finetune.untied import tied_names, untied
from distrain.models.huggingface import save_huggingface
from distrain.models.init import initialize
from distrain.models.llama import Llama
from distrain.models.origin import SpecialTokens
from distrain.models.weights.source import TensorWeights, WeightSource, read_all
from tests.distrain.finetune.test_lora import IDS, LORA, MODEL, TIED, VOCAB_SIZE, base_model

PATTERNS = LoraConfig(
    r=4,
    alpha=8,
    rank_pattern={"mlp.down_proj": 6, r"layers\.1\.self_attn\..*": 2},
    alpha_pattern={"q_proj": 5},
    target_modules=r".*\.(q_proj|down_proj|v_proj)",
)
FORMS = {
    "plain": (MODEL, LORA),
    "tied": (TIED, LORA),
    "two_layers_only": (MODEL, LORA.model_copy(update={"target_modules": ("v_proj", "q_proj")})),
    "patterns": (MODEL, PATTERNS),
    "rslora": (MODEL, LORA.model_copy(update={"use_rslora": True})),
    "all": (MODEL, PATTERNS.model_copy(update={"use_rslora": True, "use_dora": True})),
    "saved": (MODEL, LORA.model_copy(update={"modules_to_save": ("lm_head", "model.norm")})),
    "untied": (TIED, LORA.model_copy(update={"modules_to_save": ("embed_tokens",)})),
    "untied_twice": (TIED, LORA.model_copy(update={"modules_to_save": ("embed_tokens", "lm_head"),
                                                   "use_dora": True})),
}  # fmt: skip
every_form = pytest.mark.parametrize("form", FORMS)

FOREIGN = """
import sys, torch, transformers, peft
torch.set_num_threads(1)
for folder in sys.argv[1:]:
    ids = torch.load(folder + "/ids.pt")
    load = transformers.AutoModelForCausalLM.from_pretrained
    merged = load(folder + "/merged").eval()
    model = peft.PeftModel.from_pretrained(load(folder + "/base"), folder + "/adapter").eval()
    with torch.no_grad():
        torch.save([model(ids).logits, merged(ids).logits], folder + "/logits.pt")
assert "distrain" not in sys.modules
"""


def made(form):
    """Return an adapted model whose adapters have values, what is trained of it, and its base."""
    config, lora = FORMS[form]
    base: WeightSource = TensorWeights(
        {n: p.detach() for n, p in base_model(config).named_parameters()}
    )
    if config.tie_word_embeddings and lora.unties(tied_names(config, VOCAB_SIZE)):
        base = untied(base, *tied_names(config, VOCAB_SIZE))
        config = config.untied()
    model = Llama(config, VOCAB_SIZE)
    model.load_state_dict(read_all(base), strict=False)
    inject_lora(model, lora, seed=7).eval()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if is_tuned(plain_name(name), lora):
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)
    return model, tuned_state(model, lora), base, config, lora


@every_form
@torch.no_grad()
def test_merged_weights_compute_what_adapters_compute(form):
    model, state, base, config, lora = made(form)
    trained = {plain_name(name) for name, p in model.named_parameters() if p.requires_grad}
    assert trained == state.keys()
    plain = Llama(config, VOCAB_SIZE).eval()
    plain.load_state_dict(read_all(base), strict=False)
    before = plain(IDS)
    plain.load_state_dict(merge(read_all(base), state, lora), strict=False)
    torch.testing.assert_close(plain(IDS), model(IDS), rtol=0, atol=2e-4)
    assert (model(IDS) - before).abs().max() > 0.1


@torch.no_grad()
def test_control_another_scale_or_no_magnitudes_compute_something_else():
    for form, change in (("rslora", {"use_rslora": False}), ("patterns", {"alpha_pattern": {}})):
        model, state, base, config, lora = made(form)
        plain = Llama(config, VOCAB_SIZE).eval()
        wrong = lora.model_copy(update=change)
        plain.load_state_dict(merge(read_all(base), state, wrong), strict=False)
        assert (plain(IDS) - model(IDS)).abs().max() > 1e-2
    _, state, base, _, lora = made("all")
    without = {name: t for name, t in state.items() if "magnitude" not in name}
    with pytest.raises(ValueError, match="expected of each layer lora_A, lora_B, lora_magnitude"):
        merge(read_all(base), without, lora)


def test_ranks_and_scales_are_those_that_peft_gives_each_layer():
    for form in ("patterns", "rslora", "all"):
        model, *_, lora = made(form)
        layers = {n: m for n, m in model.named_modules() if hasattr(m, "scaling")}
        assert len(layers) == (6 if form != "rslora" else 14)
        for name, layer in layers.items():
            assert layer.r["default"] == lora.rank_of(name), name
            assert layer.scaling["default"] == lora.scaling_of(name), name
    assert {PATTERNS.rank_of(f"model.layers.{n}.self_attn.q_proj") for n in (0, 1)} == {4, 2}


def test_dora_begins_as_the_base_and_its_bits_do_not_depend_on_parts():
    model, state, base, _, lora = made("all")
    fresh = inject_lora(base_model(), lora, seed=7)
    names = [name for name in state if "magnitude" in name]
    starts = read_all(Magnitudes(base, names))
    for name, start in starts.items():
        torch.testing.assert_close(start, tuned_state(fresh, lora)[name], rtol=1e-6, atol=0)
    source = MergedWeights(base, state, lora)
    for name in source.touched:
        whole = source.read(name)
        part = source.read(name, (slice(3, 9), slice(1, 20)))
        assert torch.equal(part, whole[3:9, 1:20])
        assert torch.equal(source.read(name, (slice(5, 6),)), whole[5:6])
        layer = name.removesuffix(".weight")
        lengths = torch.linalg.vector_norm(whole, dim=1)
        torch.testing.assert_close(lengths, state[f"{layer}.lora_magnitude_vector"].abs())
    del model


def write(form, folder):
    """Write base, adapter and merged model as export does; return the logits of our own model."""
    model, state, base, config, lora = made(form)
    before = FORMS[form][0]
    save_huggingface(read_all(base), before, VOCAB_SIZE, folder / "base", SpecialTokens())
    save_adapter(state, lora, Llama(config, VOCAB_SIZE), "base", folder / "adapter")
    merged = merge(read_all(base), state, lora)
    save_huggingface(merged, config, VOCAB_SIZE, folder / "merged", SpecialTokens())
    torch.save(IDS, folder / "ids.pt")
    with torch.no_grad():
        return model(IDS)


@pytest.mark.models  # another process imports transformers and peft
def test_peft_alone_computes_what_the_adapted_model_does_and_so_do_the_merged_folders(tmp_path):
    ours = {form: write(form, tmp_path / form) for form in FORMS}
    stored = json.loads((tmp_path / "untied" / "merged" / "config.json").read_text())
    assert stored["tie_word_embeddings"] is False
    command = [sys.executable, "-I", "-c", FOREIGN, *(str(tmp_path / form) for form in FORMS)]
    subprocess.run(command, check=True, timeout=120, cwd=tmp_path)
    for form, expected in ours.items():
        adapted, merged = torch.load(tmp_path / form / "logits.pt")
        assert float((expected - adapted).abs().max()) < 2e-4, form
        assert float((expected - merged).abs().max()) < 2e-4, form


def test_an_untied_model_starts_as_the_tied_one():
    model = base_model(TIED)
    base = TensorWeights({name: p.detach() for name, p in model.named_parameters()})
    other = Llama(TIED.untied(), VOCAB_SIZE).eval()
    initialize(other, seed=5)
    other.load_state_dict(read_all(untied(base, *tied_names(TIED, VOCAB_SIZE))), strict=False)
    with torch.no_grad():
        assert torch.equal(model(IDS), other(IDS))
    assert other.lm_head.weight is not other.model.embed_tokens.weight
