import json
import subprocess
import sys

import pytest
import torch

from distrain.config.training import LoraConfig, ModelConfig
from distrain.data.tokenizer.prompts import prompt_ids
from distrain.data.tokenizer.tokenizer import Tokenizer, train_tokenizer
from distrain.finetune.lora import inject_lora, is_adapter, plain_name
from distrain.models.init import initialize
from distrain.models.llama import Llama
from distrain.stages.export import TrainedModel, export_huggingface
from distrain.tools.generate import load_model

MODEL = ModelConfig(
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
    return model, TrainedModel(base, config, vocab_size, adapter, LORA)


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
        laid_out = prompt_ids(tokenizer, tokenizer.encode("side <|user|>"))
        assert seen["chat"] == tokenizer.decode(laid_out)


def test_pretrained_model_has_no_adapter_folders(tmp_path, tokenizer_json):
    model, trained = fine_tuned(MODEL, tokenizer_json)
    pretrained = TrainedModel(trained.base_state, MODEL, trained.vocab_size)
    export_huggingface(pretrained, tokenizer_json, tmp_path / "model")
    assert not any(path.is_dir() for path in (tmp_path / "model").iterdir())
    ids = torch.arange(20).view(1, 20)
    model.eval()
    loaded = load_model(tmp_path / "model")
    assert loaded(ids).shape == (1, 20, trained.vocab_size)
    state = dict(loaded.named_parameters())
    assert all(torch.equal(state[name], value) for name, value in trained.base_state.items())


def test_failed_export_leaves_the_old_folder_as_it_was(tmp_path, tokenizer_json):
    _, trained = fine_tuned(MODEL, tokenizer_json)
    folder = tmp_path / "model"
    export_huggingface(trained, tokenizer_json, folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    broken = TrainedModel(trained.base_state, MODEL, trained.vocab_size + 1)
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
