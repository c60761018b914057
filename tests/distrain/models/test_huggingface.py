import json
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from distrain.config.models import LlamaConfig
from distrain.errors import PreflightError
from distrain.models import build_model, huggingface, model_on_meta
from distrain.models.huggingface import load_huggingface, open_huggingface, save_huggingface
from distrain.models.init import initialize
from distrain.models.origin import SpecialTokens
from distrain.models.weights.filling import fill_tensors
from distrain.models.weights.source import CastWeights, TensorWeights, as_float32

VOCAB_SIZE = 89
CONTEXT = 96
PLAIN = LlamaConfig(
    hidden_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=80,
    max_position_embeddings=CONTEXT,
    rope_theta=5000.0,
    initializer_range=0.2,  # large, so that differences between the two codes would show
)
GROUPED = PLAIN.model_copy(update={"num_key_value_heads": 2})
TIED = PLAIN.model_copy(update={"tie_word_embeddings": True})
SPECIAL = SpecialTokens(bos_token_id=None, eos_token_id=0, pad_token_id=1)

# Runs without the repository on its path; prints whether distrain came in all the same.
FOREIGN = """
import sys, torch, transformers
torch.set_num_threads(1)
for folder in sys.argv[1:]:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    assert type(model) is transformers.LlamaForCausalLM, type(model)
    assert model.config.eos_token_id == 0 and model.config.bos_token_id is None
    ids = torch.load(folder + "/ids.pt")
    with torch.no_grad():
        torch.save(model(ids).logits, folder + "/logits.pt")
assert "distrain" not in sys.modules
"""


def random_model(config, dtype=torch.float32):
    model = build_model(config, VOCAB_SIZE)
    initialize(model, seed=5)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return model.to(dtype).eval()


def saved(folder, config=PLAIN, dtype=torch.float32):
    model = random_model(config, dtype)
    save_huggingface(model.state_dict(), config, VOCAB_SIZE, folder, SPECIAL)
    return model


def test_transformers_alone_computes_the_same_logits_over_the_whole_context(tmp_path):
    ids = torch.randint(VOCAB_SIZE, (2, CONTEXT), generator=torch.Generator().manual_seed(0))
    folders = {name: tmp_path / name for name in ("plain", "grouped", "tied", "float64")}
    models = {
        "plain": saved(folders["plain"]),
        "grouped": saved(folders["grouped"], GROUPED),
        "tied": saved(folders["tied"], TIED),
        "float64": saved(folders["float64"], dtype=torch.float64),
    }
    for folder in folders.values():
        torch.save(ids, folder / "ids.pt")
    command = [sys.executable, "-I", "-c", FOREIGN, *map(str, folders.values())]
    subprocess.run(command, check=True, timeout=120, cwd=tmp_path)
    for name, model in models.items():
        with torch.no_grad():
            ours = model(ids)
        theirs = torch.load(folders[name] / "logits.pt")
        assert theirs.dtype == ours.dtype
        assert ours.abs().max() > 1
        assert float((ours - theirs).abs().max()) < 1e-4, name


@pytest.mark.parametrize("config", [PLAIN, GROUPED, TIED])
def test_folder_is_read_back_as_it_was_written(tmp_path, config):
    model = saved(tmp_path / "model", config)
    found, vocab_size, state = load_huggingface(tmp_path / "model")
    heads = config.num_key_value_heads or config.num_attention_heads
    assert found == config.model_copy(update={"num_key_value_heads": heads})
    assert vocab_size == VOCAB_SIZE
    expected = dict(model.named_parameters())
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in state)


def test_bf16_folder_is_read_as_float32(tmp_path):
    saved(tmp_path / "model", dtype=torch.bfloat16)
    assert json.loads((tmp_path / "model/config.json").read_text())["dtype"] == "bfloat16"
    _, _, state = load_huggingface(tmp_path / "model")
    assert {value.dtype for value in state.values()} == {torch.float32}


def test_folder_in_several_files_is_read(tmp_path):
    folder = tmp_path / "model"
    model = saved(folder)
    state = load_file(folder / "model.safetensors")
    names = sorted(state)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for part, chosen in parts.items():
        save_file({name: state[name] for name in chosen}, folder / part)
    weight_map = {name: part for part, chosen in parts.items() for name in chosen}
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").unlink()
    _, _, found = load_huggingface(folder)
    assert found.keys() == model.state_dict().keys()


def test_configuration_of_transformers_4_is_read(tmp_path):
    saved(tmp_path / "model")
    path = tmp_path / "model/config.json"
    fields = json.loads(path.read_text())
    del fields["rope_parameters"], fields["dtype"], fields["head_dim"]
    path.write_text(json.dumps(fields | {"rope_scaling": None}))
    config, _, _ = load_huggingface(tmp_path / "model")
    assert isinstance(config, LlamaConfig)
    assert config.rope_theta == 5000.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "falcon"}, "found model_type 'falcon', which has attention of its own"),
        ({"model_type": "lama"}, "found model_type 'lama'; expected one of"),
        ({"head_dim": 64}, "of shape (48, 48) where the sizes say (256, 48)"),
        ({"num_hidden_layers": 4}, "9 parameters missing"),
        ({"num_hidden_layers": 2}, "9 not of the model"),
        ({"vocab_size": 90}, "of shape (89, 48) where the sizes say (90, 48)"),
        ({"num_attention_heads": 5}, "not a multiple of num_attention_heads 5"),
        ({"vocab_size": None}, "found no vocab_size"),
    ],
)
def test_other_architectures_are_refused(tmp_path, change, message):
    saved(tmp_path / "model")
    path = tmp_path / "model/config.json"
    fields = json.loads(path.read_text()) | change
    if fields["num_attention_heads"] == 5:
        del fields["head_dim"]
    path.write_text(json.dumps({key: value for key, value in fields.items() if value is not None}))
    with pytest.raises(PreflightError) as refused:
        load_huggingface(tmp_path / "model")
    assert message in str(refused.value)
    assert str(tmp_path / "model") in refused.value.where


def test_missing_and_damaged_files_are_named(tmp_path):
    folder = tmp_path / "model"
    with pytest.raises(PreflightError, match="no such folder"):
        load_huggingface(folder)
    saved(folder)
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(PreflightError, match=r"model\.safetensors: found"):
        load_huggingface(folder)
    weights.unlink()
    with pytest.raises(PreflightError, match=r"the folder holds config\.json"):
        load_huggingface(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(PreflightError, match=r"config\.json: found"):
        load_huggingface(folder)


def test_state_of_another_model_is_not_written(tmp_path):
    state = random_model(PLAIN).state_dict()
    del state["model.norm.weight"]
    with pytest.raises(ValueError, match=r"1 parameters missing \['model.norm.weight'\]"):
        save_huggingface(state, PLAIN, VOCAB_SIZE, tmp_path / "model", SPECIAL)
    assert list(tmp_path.iterdir()) == []


def test_folder_is_replaced_whole(tmp_path):
    folder = tmp_path / "model"
    saved(folder)
    (folder / "stale.txt").write_text("of the last export")
    shutil.copytree(folder, tmp_path / ".model.partial")  # as a crash would leave it
    saved(folder, TIED)
    assert not (folder / "stale.txt").exists()
    assert load_huggingface(folder)[0].tie_word_embeddings
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


BIG = 2**40 + 1
"""Not a float32."""


def with_buffers(model):
    model.register_buffer("count", torch.zeros((), dtype=torch.int64))
    model.register_buffer("scale", torch.zeros((), dtype=torch.float32))
    model.register_buffer("table", torch.arange(3))
    return model


def test_buffers_of_whole_numbers_and_of_no_axis_keep_their_form(tmp_path, monkeypatch):
    make = model_on_meta
    monkeypatch.setattr(huggingface, "model_on_meta", lambda *of: with_buffers(make(*of)))
    state = random_model(PLAIN).state_dict()
    # As a checkpoint holds them, which cuts tensors along axes.
    state |= {"count": torch.tensor([BIG]), "scale": torch.tensor([0.5]), "table": torch.arange(3)}
    save_huggingface(state, PLAIN, VOCAB_SIZE, tmp_path / "m", SPECIAL)
    stored = load_file(tmp_path / "m" / "model.safetensors")
    assert (stored["count"].shape, stored["count"].item()) == ((), BIG)
    assert (stored["scale"].shape, stored["scale"].item()) == ((), 0.5)
    found = open_huggingface(tmp_path / "m").weights
    for weights in (found, CastWeights(found, as_float32), TensorWeights(state)):
        model = with_buffers(build_model(PLAIN, VOCAB_SIZE))
        fill_tensors(model, weights, lambda name: torch.device("cpu"))
        assert model.count.equal(torch.tensor(BIG))
        assert model.scale.equal(torch.tensor(0.5))
        assert model.table.equal(torch.arange(3))
