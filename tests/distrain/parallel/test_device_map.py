"""A model larger than its device computes what it would compute within it, to the last bit."""

from itertools import product

import pytest
import torch

from distrain.config.models import LlamaConfig
from distrain.config.tasks import CAUSAL_LM
from distrain.evaluation.meter import Meter
from distrain.models import build_model
from distrain.models.attention import DocumentLayout, plan_attention, undivided
from distrain.models.huggingface import open_huggingface, save_huggingface
from distrain.models.init import initialize
from distrain.models.origin import SpecialTokens
from distrain.models.weights.filling import build_empty
from distrain.models.weights.source import TensorWeights
from distrain.parallel import device_map
from distrain.parallel.device_map import DeviceMemory, load_weights, map_devices
from distrain.tasks import TASKS
from tests.distrain.models.layouts import layout_of
from tests.distrain.models.transformers.families import FAMILIES, bent, section
from tests.distrain.train.synthetic import SyntheticDataset

VOCAB_SIZE = 61
LLAMA = LlamaConfig(
    hidden_size=32,
    num_hidden_layers=6,
    num_attention_heads=2,
    intermediate_size=64,
    initializer_range=0.3,
)
IDS = torch.arange(2 * 30).view(2, 30) % VOCAB_SIZE


def weights_of(seed):
    model = build_model(LLAMA, VOCAB_SIZE)
    initialize(model, seed)
    return TensorWeights(model.state_dict())


def bytes_of(weights):
    return sum(form.on_meta().nbytes for form in weights.forms.values())


def loaded(weights, share, config=LLAMA):
    """A model whose weights may take a share of what they need."""
    model = build_empty(config, VOCAB_SIZE).eval()
    load_weights(model, weights, DeviceMemory.find(int(share * bytes_of(weights))))
    return model


def held_bytes(model):
    return sum(p.nbytes for p in model.parameters() if not p.is_meta)


@torch.no_grad()
def answers(model):
    """Scores of whole texts, and of each next token."""
    cache = model.new_cache()
    parts = [model.next_scores(part, cache) for part in IDS.split([9, *[1] * 21], dim=1)]
    return torch.cat([model(IDS).flatten(), torch.stack(parts).flatten()])


def test_a_folder_larger_than_the_limit_gives_the_same_bits(tmp_path, caplog):
    caplog.set_level("INFO", "distrain")
    state = {
        name: values.bfloat16() for name, values in build_model(LLAMA, 61).state_dict().items()
    }
    save_huggingface(state, LLAMA, VOCAB_SIZE, tmp_path / "model", SpecialTokens())
    weights, before = open_huggingface(tmp_path / "model").weights, sorted(tmp_path.rglob("*"))
    whole = loaded(weights, 1.0)
    assert not caplog.records
    assert held_bytes(whole) == bytes_of(weights)
    spread = loaded(weights, 0.6)
    assert 0 < held_bytes(spread) <= 0.6 * bytes_of(weights)
    assert "are spread, as cpu may take 0.00" in caplog.text
    assert answers(spread).equal(answers(whole))
    assert held_bytes(spread) <= 0.6 * bytes_of(weights)  # what was brought has gone again
    assert sorted(tmp_path.rglob("*")) == before  # and nothing is written


def test_what_does_not_fit_is_read_when_it_is_needed():
    """The control: a source that changes afterwards shows, and only there."""
    weights = weights_of(1)
    whole, spread = loaded(weights, 1.0), loaded(weights, 0.6)
    before = answers(whole)
    with torch.no_grad():
        weights.read("lm_head.weight").mul_(2)
    assert answers(whole).equal(before)
    assert not torch.allclose(answers(spread), before)


def test_the_next_weights_take_the_place_of_the_first():
    first, second = weights_of(1), weights_of(2)
    model, memory = loaded(first, 0.6), DeviceMemory.find(int(0.6 * bytes_of(second)))
    before = answers(model)
    load_weights(model, second, memory)
    assert answers(model).equal(answers(loaded(second, 1.0)))
    load_weights(model, first, DeviceMemory.find(bytes_of(first)))
    assert held_bytes(model) == bytes_of(first)
    assert answers(model).equal(before)


@pytest.mark.parametrize(
    ("name", "share"),
    [
        pytest.param(*case, marks=() if case == ("gpt-oss", 0.8) else pytest.mark.models)
        for case in product(FAMILIES, (0.8, 0.01))
    ],
)
def test_every_family_gives_the_same_bits(name, share):
    model = bent(name)
    state = {key: value for key, value in model.state_dict().items() if not model.is_tied(key)}
    spread = loaded(TensorWeights(state), share, section(name))
    assert any(parameter.is_meta for parameter in spread.parameters())
    assert answers(spread).equal(answers(model))


@pytest.mark.models
@pytest.mark.parametrize("name", ["mixtral", "qwen3-moe", "deepseek-v3", "gpt-neox", "gemma2"])
def test_what_a_folder_holds_in_another_form_is_converted_each_time(name, tmp_path):
    """Experts lie one by one in the folder, and are one tensor in the module."""
    model, folder = bent(name), tmp_path / "model"
    save_huggingface(model.state_dict(), section(name), VOCAB_SIZE, folder, SpecialTokens())
    found = open_huggingface(folder)
    assert answers(loaded(found.weights, 0.01, found.config)).equal(answers(model))


def test_documents_are_measured_alike():
    """Rows of several documents, weights one after the other, as ``evaluate`` does."""
    found = []
    for share in (1.0, 0.6):
        meter = Meter(
            build_empty(LLAMA, VOCAB_SIZE),
            2,
            DeviceMemory.find(int(share * bytes_of(weights_of(1)))),
        )
        for seed in (1, 2):
            meter.load(weights_of(seed))
            found.append(meter.measure(SyntheticDataset(6), TASKS[CAUSAL_LM]))
    assert found[:2] == found[2:]
    assert found[0] != found[1]


@pytest.fixture
def two_gpus(monkeypatch):
    free = {0: 100_000, 1: 60_000}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda number: (free[number], 200_000))
    monkeypatch.setattr(device_map, "available_bytes", lambda: 120_000)


def test_gpus_are_filled_before_the_host(two_gpus):
    assert DeviceMemory.find() == DeviceMemory(
        torch.device("cuda", 0), {0: 90_000, 1: 54_000, "cpu": 108_000}
    )
    limited = DeviceMemory.find(70_000)
    assert limited.limits == {0: 70_000, 1: 54_000, "cpu": 108_000}
    places = map_devices(build_empty(LLAMA, VOCAB_SIZE), weights_of(1), limited)
    # Every block is whole: no name goes deeper than its number.
    assert all(name.count(".") <= 2 for name in places)
    assert list(dict.fromkeys(places.values())) == [0, 1, "cpu", "disk"]


def test_a_plan_goes_to_other_blocks_once():
    plan = plan_attention(undivided(IDS))
    assert plan.to("cpu") is plan
    there = plan.to("meta")
    assert there is plan.to(torch.device("meta"))
    assert there.documents.position_ids.is_meta
    assert there.documents.lengths == plan.documents.lengths


@pytest.mark.gpu
@pytest.mark.parametrize("divided", [False, True])
def test_gpus_compute_with_what_lies_on_them_in_memory_and_in_files(divided):
    """On one GPU or two: blocks on each, then in host memory, and the rest read when needed."""
    weights, gpus = weights_of(1), range(min(2, torch.cuda.device_count()))
    block = bytes_of(weights) // 6
    limits: dict[int | str, int] = {**dict.fromkeys(gpus, 5 * block // 2), "cpu": 5 * block // 2}
    spread = build_empty(LLAMA, VOCAB_SIZE).eval()
    load_weights(spread, weights, DeviceMemory(torch.device("cuda", 0), limits))
    documents = undivided(IDS)
    if divided:
        documents = layout_of(torch.tensor([[0] * 11 + [1] * 19] * 2), documents.position_ids)
    on_gpu = DocumentLayout(
        documents.cu_seqlens.cuda(), documents.position_ids.cuda(), documents.lengths
    )
    with torch.no_grad():
        found = spread(IDS.cuda(), documents=on_gpu)
        expected = loaded(weights, 1.0)(IDS, documents=documents)
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-3, atol=1e-3)
