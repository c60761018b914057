import json
import shutil
import subprocess
import sys

import pytest
import torch

from distrain.config.models import LlamaConfig
from distrain.data.tokenizer.tokenizer import Tokenizer, train_tokenizer
from distrain.errors import DataError, PreflightError
from distrain.evaluation.generation import Sampling, penalized
from distrain.loss import summed_cross_entropy
from distrain.models.init import initialize
from distrain.models.llama import Llama
from distrain.models.weights.source import TensorWeights
from distrain.stages.export import TrainedModel, export_huggingface
from distrain.tools.generate import Chat, generate

TEXT = "def area(side):\n    return side * side\n"
QUESTION, ANSWER = "What is two?", "A number after one."
FOREIGN = """
import sys, transformers
folder, prompt, penalty = sys.argv[1:]
tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
model = transformers.AutoModelForCausalLM.from_pretrained(folder)
ids = tokenizer(prompt, return_tensors="pt")
settings = dict(do_sample=False, max_new_tokens=60, repetition_penalty=float(penalty))
new = model.generate(**ids, **settings)[0, ids["input_ids"].shape[1]:]
sys.stdout.write(tokenizer.decode(new, skip_special_tokens=True))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Export a model that knows one text and one answer by heart."""
    root = tmp_path_factory.mktemp("generate")
    tokenizer_json = root / "tokenizer.json"
    tokenizer_json.write_text(train_tokenizer([TEXT] * 4, vocab_size=280, min_frequency=2))
    tokenizer = Tokenizer.load(tokenizer_json)
    config = LlamaConfig(
        hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96
    )
    model = Llama(config, tokenizer.vocab_size)
    initialize(model, seed=0)
    end = tokenizer.eos_id
    chat = [tokenizer.user_id, *tokenizer.encode(QUESTION), tokenizer.assistant_id]
    rows = [
        torch.tensor([[end, *tokenizer.encode(TEXT), end]]),
        torch.tensor([[*chat, *tokenizer.encode(ANSWER), end]]),
    ]
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.0)
    for _ in range(120):
        for row in rows:
            loss = summed_cross_entropy(model(row[:, :-1]), row[:, 1:]) / row.numel()
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    trained = TrainedModel(TensorWeights(model.state_dict()), config, tokenizer.vocab_size)
    export_huggingface(trained, tokenizer_json, root / "model")
    return root / "model"


def test_a_changed_export_is_refused(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "model")
    weights = copy / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-3] ^= 1
    weights.write_bytes(content)
    with pytest.raises(PreflightError, match=r"model\.safetensors does not match its digest"):
        generate(copy, "def area(")
    (copy / "SHA256SUMS").unlink()  # as a user does who meant it
    assert generate(copy, "def area(")


def test_continues_a_text_to_its_end(folder):
    assert generate(folder, "def area(") == TEXT.removeprefix("def area(")


def test_empty_prompt_starts_a_document(folder):
    assert generate(folder, "") == TEXT


def test_answers_a_prompt_laid_out_as_in_fine_tuning(folder):
    assert generate(folder, QUESTION, chat=Chat()) == ANSWER
    turns = [{"role": "user", "content": QUESTION}]
    assert generate(folder, json.dumps(turns), chat=Chat()) == ANSWER
    assert Chat("Be kind.").turns("[1] is what?") == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "[1] is what?"},
    ]


def test_a_model_larger_than_its_device_writes_the_same(folder, caplog):
    caplog.set_level("INFO", "distrain")
    assert generate(folder, "def area(", max_memory=60_000) == TEXT.removeprefix("def area(")
    assert "on disk" in caplog.text


def test_length_is_limited(folder):
    limited = generate(folder, "def area(", max_new_tokens=2)
    assert limited
    assert TEXT.removeprefix("def area(").startswith(limited)
    assert len(limited) < len(TEXT) / 2


@pytest.mark.parametrize("as_list", [False, True])
def test_ends_at_what_the_generation_config_calls_an_end(folder, tmp_path, as_list):
    copy = shutil.copytree(folder, tmp_path / "model")
    (copy / "SHA256SUMS").unlink()
    tokenizer = Tokenizer.load(copy)
    (_, *_, last) = tokenizer.encode(TEXT.rstrip("\n"))
    stops = [tokenizer.vocab_size - 1, last] if as_list else last
    (copy / "generation_config.json").write_text(json.dumps({"eos_token_id": stops}))
    ended = generate(copy, "def area(")
    assert TEXT.removeprefix("def area(").startswith(ended)
    assert len(ended) < len(generate(folder, "def area("))


def test_sampling_repeats_with_its_seed(folder):
    hot = [generate(folder, "def", Sampling(temperature=3.0, seed=seed)) for seed in (0, 0, 1)]
    assert hot[0] == hot[1]
    assert hot[0] != hot[2]


def test_a_repetition_penalty_makes_what_is_there_less_likely():
    logits = torch.tensor([2.0, -1.0, 3.0, 0.5])
    changed = penalized(logits, [0, 1, 1], Sampling(repetition_penalty=2.0))
    assert changed.tolist() == [1.0, -2.0, 3.0, 0.5]
    assert penalized(logits, [0, 1], Sampling()).tolist() == logits.tolist()


@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_transformers_generates_the_same(folder, tmp_path, penalty):
    command = [sys.executable, "-I", "-c", FOREIGN, str(folder), "def area(", str(penalty)]
    found = subprocess.run(
        command, check=True, timeout=120, cwd=tmp_path, capture_output=True, text=True
    )
    assert found.stdout == generate(folder, "def area(", Sampling(repetition_penalty=penalty))


def test_command_prints_the_text_alone_and_what_it_does_on_stderr(folder):
    options = ("--max-new-tokens=64", "--temperature=0", "--repetition-penalty=1", "--seed=0")
    command = [sys.executable, "-m", "distrain", "generate", str(folder), QUESTION, "--chat"]
    command += ["--max-memory=1000"]
    found = subprocess.run(
        [*command, *options], check=True, timeout=120, capture_output=True, text=True
    )
    assert found.stdout == ANSWER + "\n"
    assert "parameters in" in found.stderr
    assert "GiB are spread, as cpu may take 0.00" in found.stderr
    assert "up to 64 tokens: the likeliest token each time" in found.stderr


def test_folder_without_a_model_is_refused(tmp_path, folder):
    with pytest.raises(DataError, match=r"nothing.*: found no such file"):
        generate(tmp_path / "nothing", "a")
    (tmp_path / "tokenizer.json").write_text((folder / "tokenizer.json").read_text())
    with pytest.raises(PreflightError, match=r"config\.json: found no such file"):
        generate(tmp_path, "a")


def test_wrong_settings_are_refused(folder):
    with pytest.raises(ValueError, match="expected at least 1"):
        generate(folder, "a", max_new_tokens=0)
    with pytest.raises(ValueError, match="expected temperature >= 0"):
        Sampling(temperature=-1.0)
    with pytest.raises(ValueError, match="repetition_penalty >= 1"):
        Sampling(repetition_penalty=0.5)
