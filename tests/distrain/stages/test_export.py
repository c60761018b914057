import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from distrain.config.lora import LoraConfig
from distrain.config.models import LlamaConfig
from distrain.data.tokenizer.tokenizer import Tokenizer, train_tokenizer
from distrain.finetune.lora import inject_lora, is_adapter, plain_name
from distrain.models.huggingface import open_huggingface, save_huggingface
from distrain.models.init import initialize
from distrain.models.llama import Llama
from distrain.models.origin import SpecialTokens
from distrain.models.weights.source import TensorWeights, read_all
from distrain.models.weights.writer import write_tensors
from distrain.parallel.device_map import DeviceMemory
from distrain.stages.export import TrainedModel, export_huggingface
from distrain.tools.generate import load_model
from tests.distrain.data.former_layouts import MarkedLayout, fitted

MODEL = LlamaConfig(
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=48,
    max_position_embeddings=64,
    initializer_range=0.2,
)
TIED = MODEL.model_copy(update={"tie_word_embeddings": True})
LORA = LoraConfig(r=4, alpha=8)
TEXT = "def area(side):\n    return side * side\n"

# What a user without distrain does with the folder: the merged model, then base and adapter.
FOREIGN = """
import sys, torch, transformers, peft
torch.set_num_threads(1)
for folder in sys.argv[1:]:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    base = transformers.AutoModelForCausalLM.from_pretrained(folder + "/base")
    adapted = peft.PeftModel.from_pretrained(base, folder + "/adapter").eval()
    ids = torch.arange(2 * 64).view(2, 64) % model.config.vocab_size
    template = tokenizer.apply_chat_template
    turns = [{"role": "user", "content": "side <|user|>"}]
    with torch.no_grad():
        torch.save({
            "merged": model(ids).logits,
            "adapted": adapted(ids).logits,
            "text": tokenizer("def area(side):")["input_ids"],
            "eos": (tokenizer.eos_token_id, model.generation_config.eos_token_id),
            "chat": template(turns, add_generation_prompt=True, tokenize=False),
        }, folder + "/seen.pt")
assert "distrain" not in sys.modules
"""


@pytest.fixture(scope="module")
def tokenizer_json(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_text(train_tokenizer([TEXT] * 4, vocab_size=300, min_frequency=2))
    return path


def fine_tuned(config, tokenizer_json):
    """Build what an sft stage leaves behind, and the model itself."""
    vocab_size = Tokenizer.load(tokenizer_json).vocab_size
    model = Llama(config, vocab_size)
    initialize(model, seed=0)
    base = {name: p.detach().clone() for name, p in model.named_parameters()}
    inject_lora(model, LORA, seed=1).eval()
    adapter = {}
    for name, parameter in model.named_parameters():
        if is_adapter(plain_name(name)):
            torch.nn.init.normal_(parameter, std=0.1)
            adapter[plain_name(name)] = parameter.detach()
    return model, TrainedModel(TensorWeights(base), config, vocab_size, adapter, LORA)


def test_merged_model_and_adapter_load_without_distrain(tmp_path, tokenizer_json):
    torch.manual_seed(0)
    expected = {}
    for name, config in {"plain": MODEL, "tied": TIED}.items():
        model, trained = fine_tuned(config, tokenizer_json)
        export_huggingface(trained, tokenizer_json, tmp_path / name)
        ids = torch.arange(2 * 64).view(2, 64) % trained.vocab_size
        expected[name] = model(ids).detach()
    command = [sys.executable, "-I", "-c", FOREIGN, *(str(tmp_path / name) for name in expected)]
    subprocess.run(command, check=True, timeout=120, cwd=tmp_path)
    tokenizer = Tokenizer.load(tokenizer_json)
    for name, ours in expected.items():
        seen = torch.load(tmp_path / name / "seen.pt")
        assert float((seen["merged"] - ours).abs().max()) < 1e-4
        assert float((seen["adapted"] - ours).abs().max()) < 1e-4
        assert seen["text"] == tokenizer.encode("def area(side):")
        assert seen["eos"] == (tokenizer.eos_id, tokenizer.eos_id)
        laid_out, _ = fitted(MarkedLayout(tokenizer).question("side <|user|>"), 1000)
        assert seen["chat"] == tokenizer.decode(laid_out)


def test_pretrained_model_has_no_adapter_folders(tmp_path, tokenizer_json):
    model, trained = fine_tuned(MODEL, tokenizer_json)
    pretrained = TrainedModel(trained.base, MODEL, trained.vocab_size)
    export_huggingface(pretrained, tokenizer_json, tmp_path / "model")
    assert not any(path.is_dir() for path in (tmp_path / "model").iterdir())
    ids = torch.arange(20).view(1, 20)
    model.eval()
    loaded = load_model(tmp_path / "model", DeviceMemory.find())
    assert loaded(ids).shape == (1, 20, trained.vocab_size)
    state = dict(loaded.named_parameters())
    assert all(torch.equal(state[name], value) for name, value in read_all(trained.base).items())


def test_failed_export_leaves_the_old_folder_as_it_was(tmp_path, tokenizer_json):
    _, trained = fine_tuned(MODEL, tokenizer_json)
    folder = tmp_path / "model"
    export_huggingface(trained, tokenizer_json, folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    broken = TrainedModel(trained.base, MODEL, trained.vocab_size + 1)
    with pytest.raises(ValueError, match="where the sizes say"):
        export_huggingface(broken, tokenizer_json, folder)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_configuration_names_the_context_and_the_control_tokens(tmp_path, tokenizer_json):
    _, trained = fine_tuned(MODEL, tokenizer_json)
    export_huggingface(trained, tokenizer_json, tmp_path / "model")
    config = json.loads((tmp_path / "model/config.json").read_text())
    tokenizer = Tokenizer.load(tokenizer_json)
    assert config["eos_token_id"] == tokenizer.eos_id
    assert config["pad_token_id"] == tokenizer.pad_id
    assert config["bos_token_id"] is None
    described = json.loads((tmp_path / "model/tokenizer_config.json").read_text())
    assert described["model_max_length"] == config["max_position_embeddings"] == 64


def own_model(folder, trained, tokenizer, *, eos):
    """A user's folder: bf16 but for the norms, with fields that distrain does not know."""
    state = {
        name: tensor.to(torch.float32 if "norm" in name else torch.bfloat16)
        for name, tensor in read_all(trained.base).items()
    }
    special = SpecialTokens(eos_token_id=tokenizer.eos_id)
    save_huggingface(read_all(trained.base), MODEL, trained.vocab_size, folder, special)
    write_tensors(folder / "model.safetensors", state)
    config = json.loads((folder / "config.json").read_text())
    del config["rope_parameters"], config["dtype"]  # as transformers 4 writes it
    config |= {"eos_token_id": eos, "bos_token_id": 7, "torch_dtype": "bfloat16", "own": {"x": 1}}
    (folder / "config.json").write_text(json.dumps(config))
    generation = {"eos_token_id": eos, "temperature": 0.6, "top_p": 0.9, "do_sample": True}
    (folder / "generation_config.json").write_text(json.dumps(generation))
    return config, generation, state


def tuned_from(folder, trained):
    """What is exported of a model that was tuned from ``folder``."""
    own = open_huggingface(folder)
    return TrainedModel(own.weights, MODEL, own.vocab_size, trained.adapter_state, LORA, own.origin)


def test_what_a_users_folder_says_is_the_same_in_what_comes_out(tmp_path, tokenizer_json):
    _, trained = fine_tuned(MODEL, tokenizer_json)
    tokenizer = Tokenizer.load(tokenizer_json)
    eos = [tokenizer.eos_id, 5, 6]
    config, generation, state = own_model(tmp_path / "own", trained, tokenizer, eos=eos)
    export_huggingface(tuned_from(tmp_path / "own", trained), tokenizer_json, tmp_path / "out")
    for folder in (tmp_path / "out", tmp_path / "out" / "base"):
        assert json.loads((folder / "config.json").read_text()) == config | {
            "pad_token_id": tokenizer.pad_id  # the folder has none
        }
        assert json.loads((folder / "generation_config.json").read_text()) == generation | {
            "bos_token_id": 7,
            "pad_token_id": tokenizer.pad_id,
        }
        written = load_file(folder / "model.safetensors")
        assert {name: value.dtype for name, value in written.items()} == {
            name: value.dtype for name, value in state.items()
        }
    base = load_file(tmp_path / "out" / "base" / "model.safetensors")
    assert all(torch.equal(base[name], value) for name, value in state.items())
    merged = load_file(tmp_path / "out" / "model.safetensors")
    layer = "model.layers.0.mlp.up_proj"
    a, b = (trained.adapter_state[f"{layer}.lora_{matrix}.weight"] for matrix in "AB")
    exact = state[f"{layer}.weight"].float() + LORA.alpha / LORA.r * b @ a
    assert torch.equal(merged[f"{layer}.weight"], exact.to(torch.bfloat16))


def test_what_ends_an_answer_is_added_to_what_ends_a_text(tmp_path, tokenizer_json):
    _, trained = fine_tuned(MODEL, tokenizer_json)
    tokenizer = Tokenizer.load(tokenizer_json)
    own_model(tmp_path / "own", trained, tokenizer, eos=[5])
    export_huggingface(tuned_from(tmp_path / "own", trained), tokenizer_json, tmp_path / "out")
    for name in ("config.json", "generation_config.json"):
        content = json.loads((tmp_path / "out" / name).read_text())
        assert content["eos_token_id"] == [5, tokenizer.eos_id]


@pytest.mark.parametrize("mask", [0o022, 0o002, 0o077])
def test_files_have_the_modes_that_the_umask_gives(tmp_path, tokenizer_json, mask):
    _, trained = fine_tuned(MODEL, tokenizer_json)
    before = os.umask(mask)
    try:
        export_huggingface(trained, tokenizer_json, tmp_path / "out")
    finally:
        os.umask(before)
    modes = {path.stat().st_mode & 0o777 for path in tmp_path.rglob("out/**/*") if path.is_file()}
    assert modes == {0o666 & ~mask}
    modes = {path.stat().st_mode & 0o777 for path in tmp_path.rglob("out/**/*") if path.is_dir()}
    assert modes == {0o777 & ~mask}


TURNS = (
    "{% for message in messages %}{{ message['content'] + '<|pad|>' }}{% endfor %}",
    "{{ raise_exception('no chats') }}",
)


@pytest.mark.parametrize("template", TURNS)
def test_what_ends_a_turn_of_the_template_ends_generation(tmp_path, tokenizer_json, template):
    _, trained = fine_tuned(MODEL, tokenizer_json)
    tokenizer = Tokenizer.load(tokenizer_json)
    own_model(tmp_path / "own", trained, tokenizer, eos=tokenizer.eos_id)
    shutil.copy(tokenizer_json, tmp_path / "own")
    (tmp_path / "own" / "chat_template.jinja").write_text(template)
    export_huggingface(tuned_from(tmp_path / "own", trained), tmp_path / "own", tmp_path / "out")
    content = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    ends = {TURNS[0]: [tokenizer.eos_id, tokenizer.pad_id], TURNS[1]: tokenizer.eos_id}
    assert content["eos_token_id"] == ends[template]
