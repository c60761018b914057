"""Packed documents mean what each means alone, to transformers itself, in every family."""

from itertools import pairwise

import pytest
import torch
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

from distrain.models import build_model
from distrain.models.attention import DocumentLayout
from distrain.models.transformers import interface
from distrain.models.transformers.construction import family_config
from distrain.models.transformers.interface import RULE_OF
from tests.distrain.models.transformers.families import FAMILIES, VOCAB_SIZE, bend, bent, section

ENDS = [0, 20, 64, 90, 128]
SHAPE = (2, 64)
QUICK = ("qwen3", "gemma2", "gpt2", "deepseek-v3", "gpt-oss")
"""One of each kind of attention; the others carry the marker ``models``."""
every_family = pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in QUICK else pytest.mark.models) for name in FAMILIES],
)


def packed():
    positions = torch.cat([torch.arange(end - start) for start, end in pairwise(ENDS)])
    ids = torch.randint(0, VOCAB_SIZE, SHAPE, generator=torch.Generator().manual_seed(1))
    return ids, DocumentLayout(torch.tensor(ENDS, dtype=torch.int32), positions.view(SHAPE))


@torch.no_grad()
def alone(name, model, ids):
    """Logits of each document by itself, by transformers' own class and its plain attention."""
    found = section(name)
    config = family_config(found.model_type, found.config, VOCAB_SIZE)
    module = (
        MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
        ._from_config(config, attn_implementation="eager", dtype=torch.float32)
        .eval()
    )
    module.load_state_dict(model.state_dict())
    row = ids.view(1, -1)
    parts = [module(row[:, start:end], use_cache=False).logits for start, end in pairwise(ENDS)]
    return torch.cat(parts, 1).view(*SHAPE, -1)


@every_family
@torch.no_grad()
def test_packed_documents_have_the_logits_of_each_alone(name):
    model, (ids, documents) = bent(name), packed()
    ours = model(ids, documents=documents)
    theirs = alone(name, model, ids)
    assert theirs.std() > 0.1
    # Where logits are large, so is their rounding: of gemma3, whose deviation is 6 here, both are
    # 3e-5 from what the same model gives in float64.
    assert (ours - theirs).abs().max() <= 1e-5 * max(1, theirs.std())


OPTIONS = {
    "scaling": ("granite", "gemma2", "gemma3", "gpt2"),
    "sliding_window": ("mistral-window", "qwen2-window", "gemma2", "gemma3", "phi3", "gpt-oss"),
    "softcap": ("gemma2",),
    "s_aux": ("gpt-oss",),
}
"""Option of a layer -> families whose logits it must move."""


def test_every_option_but_dropout_is_tried():
    assert {*OPTIONS, "dropout"} == RULE_OF.keys()


@pytest.mark.parametrize(
    ("option", "name"),
    [
        pytest.param(option, name, marks=() if name in QUICK else pytest.mark.models)
        for option, names in OPTIONS.items()
        for name in names
    ],
)
@torch.no_grad()
def test_without_an_option_the_logits_are_others(option, name, monkeypatch):
    model, (ids, documents) = bent(name), packed()
    theirs = alone(name, model, ids)
    monkeypatch.setattr(interface, "WITHOUT_MEANING", interface.WITHOUT_MEANING | {option})
    monkeypatch.delitem(RULE_OF, option)
    assert (model(ids, documents=documents) - theirs).abs().max() > 1e-3


@torch.no_grad()
def test_attention_is_dropped_as_the_family_says():
    model = build_model(section("llama-2", attention_dropout=0.5), VOCAB_SIZE)
    bend(model)
    ids, documents = packed()
    evaluated = [model.eval()(ids, documents=documents) for _ in range(2)]
    trained = [model.train()(ids, documents=documents) for _ in range(2)]
    assert evaluated[0].equal(evaluated[1])
    assert not trained[0].equal(trained[1])
