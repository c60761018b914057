"""Stages that add tokens: trained, killed and resumed, built upon, exported, and written."""

import json

import pytest
import torch
from safetensors.torch import load_file

from distrain.config.models import LlamaConfig
from distrain.config.reading.load import load_recipe
from distrain.data.tokenizer.huggingface import save_huggingface as save_tokenizer
from distrain.data.tokenizer.tokenizer import Tokenizer, train_tokenizer
from distrain.models.huggingface import save_huggingface
from distrain.models.init import initialize
from distrain.models.llama import Llama
from distrain.models.origin import SpecialTokens
from distrain.parallel.device_map import DeviceMemory
from distrain.tools.generate import load_model
from tests.runs.forked import finish, kill_after_first_save
from tests.tiny import distrain, exact_records, tensor_digests

TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}"
    "{{ message['content'] }}<|call|><|/call|><|endoftext|>"
    "{% else %}{{ message['content'] }}{% endif %}{% endfor %}"
)
"""What is trained ends with both new tokens, before the end of the text."""
TOKENS = ["<|call|>", "<|/call|>"]
ENGINES = {
    "single": {"strategy": "single"},
    "ddp": {"strategy": "ddp"},
    "fsdp": {"strategy": "fsdp"},
    "zero1": {"strategy": "deepspeed", "zero_stage": 1},
    "zero2": {"strategy": "deepspeed", "zero_stage": 2},
    "zero3": {"strategy": "deepspeed", "zero_stage": 3},
}
SAVED = "modules_to_save: [embed_tokens, lm_head]"
METHODS = {
    "full": "null",
    "lora": f"{{r: 4, alpha: 8, {SAVED}}}",
    "qlora": f"{{r: 4, alpha: 8, quantization: {{}}, {SAVED}}}",
}
RUNS = [
    *((engine, method) for engine in ENGINES for method in ("full", "lora")),
    # Codes and scales of 4 bits cannot be cut over ranks: other engines refuse them by name.
    *((engine, "qlora") for engine in ("single", "ddp")),
]
RECIPE = """\
name: tokens
seed: 3
defaults:
  training: {{sequence_length: 64, global_batch_size: 8, micro_batch_size: 2, max_steps: 10}}
  optimizer: {{learning_rate: 1e-2}}
  lr_scheduler: {{name: constant}}
  checkpoint: {{save_steps: 5}}
  eval: {{max_batches: 2}}
stages:
  sft:
    kind: sft
    model: {{from_pretrained: {base}}}
    data: {{path: {chats}, test_fraction: 0.2, add_tokens: {tokens}}}
    lora: {lora}
    parallelism: {parallelism}
  again:
    kind: sft
    needs: sft
    data: {{path: {chats}}}
    lora: {{r: 2}}
    training: {{max_steps: 2}}
  more:
    kind: sft
    needs: again
    data: {{path: {chats}, add_tokens: ["<|third|>"]}}
    lora: null
    training: {{max_steps: 2}}
  evaluate: {{kind: evaluate, needs: sft}}
  export: {{kind: export, needs: sft}}
  export2: {{kind: export, needs: more}}
launch: {{processes_per_node: {ranks}}}
"""


def write(folder, *, method="full", engine="single", tied=True, spare=0, family=None):
    """Write a model's folder whose template names tokens that it lacks, chats, and a recipe."""
    base = folder / "base"
    base.mkdir(parents=True)
    for runs in ("runs", "cut", "alone"):  # where ranks meet
        (folder / runs).mkdir()
    words = " ".join(f"What is {n} and {n}? It is {2 * n}." for n in range(60))
    file = folder / "tokenizer.json"
    file.write_text(train_tokenizer([words], vocab_size=300, min_frequency=2))
    save_tokenizer(file, base)
    (base / "chat_template.jinja").write_text(TEMPLATE)
    rows = Tokenizer.load(base).vocab_size + spare
    if family is None:
        write_llama(base, rows, tied=tied)
    else:
        write_family(base, rows, **family)
    chats = folder / "chats.jsonl"
    rows_of = ({"prompt": f"What is {n} and {n}?", "answer": f"It is {2 * n}."} for n in range(60))
    chats.write_text("".join(json.dumps(row) + "\n" for row in rows_of))
    path = folder / "tokens.yaml"
    path.write_text(
        RECIPE.format(
            base=base,
            chats=chats,
            tokens=json.dumps(TOKENS),
            lora=METHODS.get(method, method),
            parallelism=json.dumps(ENGINES[engine]),
            ranks=1 if engine == "single" else 2,
        )
    )
    return path


def write_llama(base, rows, *, tied):
    config = LlamaConfig(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=128, tie_word_embeddings=tied,
    )  # fmt: skip
    model = Llama(config, rows)
    initialize(model, seed=1)
    save_huggingface(
        dict(model.state_dict()), config, rows, base.with_name("weights"), SpecialTokens()
    )
    for path in base.with_name("weights").iterdir():
        path.rename(base / path.name)


def write_family(base, rows, **config):
    import transformers

    torch.manual_seed(1)
    sizes = transformers.AutoConfig.for_model(**config, vocab_size=rows, eos_token_id=0)
    transformers.AutoModelForCausalLM.from_config(sizes).save_pretrained(base)


def table(folder, name="model.embed_tokens.weight"):
    return load_file(folder / "model.safetensors")[name]


@pytest.fixture(scope="module", params=[("full", True, 0), ("lora", True, 1), ("lora", False, 5)])
def done(request, tmp_path_factory):
    method, tied, spare = request.param
    folder = tmp_path_factory.mktemp("tokens")
    path = write(folder, method=method, tied=tied, spare=spare)
    run = folder / "runs" / "tokens"
    stages = ("sft", "again", "more", "evaluate", "export", "export2")
    finish(load_recipe(path, ["sft.training.max_steps=60"]).recipe, run, *stages)
    return request.param, folder, run


@pytest.mark.models  # transformers loads what is exported
def test_the_exported_model_has_the_tokens_and_later_stages_go_on_from_it(done):
    (method, tied, spare), folder, run = done
    from transformers import AutoTokenizer

    known = Tokenizer.load(folder / "base").vocab_size
    exported = run / "export" / "huggingface"
    reload = json.loads((run / "export" / "result.json").read_text())["reload"]
    assert reload["compared"], reload
    words = json.loads((exported / "config.json").read_text())
    assert words["vocab_size"] == max(known + 2, known + spare) == len(table(exported))
    assert words["tie_word_embeddings"] is (tied and method == "full")
    theirs = AutoTokenizer.from_pretrained(exported)
    assert theirs.encode("".join(TOKENS)) == [known, known + 1]
    assert not torch.equal(table(exported)[known], table(exported)[known + 1]), "both were trained"
    if method == "lora":
        base = table(exported / "base")
        old = table(folder / "base")
        assert torch.equal(base[:known], old[:known])
        assert torch.equal(base[known], base[known + 1])
        torch.testing.assert_close(base[known], old[:known].mean(0), rtol=1e-4, atol=1e-7)
        assert torch.equal(base[known + 2 :], old[known + 2 :]), "spare rows that nobody takes"
    counts = json.loads((run / "sft" / "result.json").read_text())["added_tokens"]
    assert {name: count["id"] for name, count in counts.items()} == {
        "<|call|>": known, "<|/call|>": known + 1}  # fmt: skip
    assert all(count["seen"] >= count["trained"] > 0 for count in counts.values())
    more = run / "export2" / "huggingface"
    assert AutoTokenizer.from_pretrained(more).encode("<|/call|><|third|>") == [
        known + 1,
        known + 2,
    ]
    assert json.loads((run / "export2" / "result.json").read_text())["reload"]["compared"]
    assert "answers" in json.loads((run / "evaluate" / "result.json").read_text())


@pytest.mark.models
def test_a_new_token_is_written_after_training_on_it(done):
    _, folder, run = done
    known = Tokenizer.load(folder / "base").vocab_size
    tokenizer = Tokenizer.load(run / "export" / "huggingface")
    prompt = torch.tensor([tokenizer.encode("What is 7 and 7?It is 14.")])
    ranks = {}
    for name, place in (("before", folder / "base"), ("after", run / "export" / "huggingface")):
        model = load_model(place, DeviceMemory.find(None))
        with torch.no_grad():
            ranks[name] = int(model(prompt)[0, -1].argmax())
    assert ranks["after"] == known
    assert ranks["before"] != known, "the control: the base has no such token"


@pytest.mark.models
@pytest.mark.parametrize(("engine", "method"), RUNS)
def test_every_engine_trains_the_same_and_goes_on_bit_for_bit(tmp_path, engine, method):
    path = write(tmp_path, method=method, engine=engine)
    recipe, run = load_recipe(path, []).recipe, tmp_path / "runs" / "tokens"
    finish(recipe, run, "sft")
    cut = tmp_path / "cut" / "tokens"
    kill_after_first_save(recipe, cut, "sft")
    finish(recipe, cut, "sft")
    assert exact_records(cut, "sft") == exact_records(run, "sft")
    assert tensor_digests(cut, "sft") == tensor_digests(run, "sft")
    alone = tmp_path / "alone" / "tokens"
    one = load_recipe(path, ["sft.parallelism={strategy: single}", "launch.processes_per_node=1"])
    finish(one.recipe, alone, "sft")
    losses = [
        [row["train/loss"] for row in exact_records(each, "sft") if row["train/loss"] is not None]
        for each in (run, alone)
    ]
    assert len(losses[0]) == 10
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    for file in ("tokenizer.json", "SHA256SUMS"):
        assert (alone / "sft/tokenizer" / file).read_bytes() == (
            run / "sft/tokenizer" / file).read_bytes()  # fmt: skip


def test_what_could_not_be_learned_is_refused_before_the_queue(tmp_path):
    path = write(tmp_path, method="{r: 4}")
    found = distrain(tmp_path / "runs", "validate", str(path))
    assert found.returncode == 3
    assert "lora.modules_to_save to [embed_tokens, lm_head]" in found.stdout + found.stderr
    named = distrain(
        tmp_path / "runs", "validate", str(path), "sft.data.add_tokens=[It]", "sft.lora=null"
    )
    assert named.returncode == 3
    assert "'It', a piece of the tokenizer's vocabulary" in named.stdout + named.stderr
    fine = distrain(
        tmp_path / "runs", "validate", str(path), "sft.data.add_tokens=['<|user|>','<|x|>']",
        "sft.lora=null",
    )  # fmt: skip
    assert fine.returncode == 0, fine.stdout + fine.stderr
    assert "tokens already, which stay as they are: <|user|> (1)" in fine.stdout + fine.stderr
