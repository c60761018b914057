"""Text that grows from kept keys and values has the scores of a text computed as a whole."""

from itertools import islice

import pytest
import torch

from distrain.config.models.transformers import TransformersConfig
from distrain.evaluation.generation import LIKELIEST, sample
from distrain.models import build_model
from distrain.models.key_value_cache import KeyValueCache
from distrain.models.transformers.family_cache import FamilyCache
from tests.distrain.models.transformers.families import (
    FAMILIES,
    SIZES,
    VOCAB_SIZE,
    WINDOW,
    bend,
    bent,
)
from tests.distrain.models.transformers.test_long_rope import SECTION, SHORT_CONTEXT

PARTS = (3, *[1] * 20, 7, 1, 1)
"""Tokens of the calls: alone and several, before the windows are full and after."""
QUICK = ("gpt-oss",)
"""A window, sinks and experts in one; the others carry the marker ``models``."""


def texts():
    shape = (2, sum(PARTS))
    assert shape[1] > WINDOW
    return torch.randint(2, VOCAB_SIZE, shape, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def grown(model, cache):
    """Scores after each part, shape (B, parts, V)."""
    return torch.stack([model.next_scores(part, cache) for part in texts().split(PARTS, 1)], 1)


def furthest(model, cache):
    """How far scores are from those of whole texts, in their deviation where that is above 1."""
    whole = grown(model, KeyValueCache())
    return float((grown(model, cache) - whole).abs().max()) / max(1.0, float(whole.std()))


def plain_cache(model):
    """What transformers makes of the family's config, whether or not it fits."""
    return FamilyCache(model.family.config)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in QUICK else pytest.mark.models) for name in FAMILIES],
)
def test_scores_and_likeliest_tokens_are_those_of_the_whole_text(name, monkeypatch):
    model = bent(name)
    cache = model.new_cache()
    assert isinstance(cache, FamilyCache)
    assert furthest(model, cache) <= 1e-5
    for layer in cache.kept.layers:
        # No window is kept in vain, and all else whole.
        assert layer.keys.shape[2] == (WINDOW - 1 if layer.is_sliding else cache.length)
    kept = list(islice(sample(model, [3, 4, 5], LIKELIEST), 2 * WINDOW))
    monkeypatch.setattr(model, "new_cache", KeyValueCache)
    assert kept == list(islice(sample(model, [3, 4, 5], LIKELIEST), 2 * WINDOW))


def test_only_new_positions_are_computed():
    model, computed = bent("qwen3"), []
    cache = model.new_cache()
    model.model.norm.register_forward_hook(lambda _, inputs, __: computed.append(inputs[0].shape))
    grown(model, cache)
    assert [shape[1] for shape in computed] == list(PARTS)


def test_a_wrong_position_and_a_forgotten_one_show(monkeypatch):
    """The controls: what a mistake would look like."""
    model = bent("qwen3")
    monkeypatch.setattr(FamilyCache, "take_in", lambda cache, ids: (ids, 0))
    assert furthest(model, plain_cache(model)) > 1e-2
    monkeypatch.undo()
    model = bent("mistral-window")
    cache = model.new_cache()
    cache.kept.layers[0].sliding_window = WINDOW - 1
    assert furthest(model, cache) > 1e-3


def test_a_family_whose_cache_forgets_what_is_seen_keeps_none(caplog):
    """The cache of moshi has a window, its layers have none."""
    fields = {**SIZES, "sliding_window": WINDOW, "head_dim": 8}
    model = build_model(TransformersConfig(model_type="moshi", config=fields), VOCAB_SIZE).eval()
    bend(model)
    assert furthest(model, plain_cache(model)) > 1e-2
    cache = model.new_cache()
    assert not isinstance(cache, FamilyCache)
    assert "moshi keeps no keys and values" in caplog.text
    assert furthest(model, cache) == 0


def test_keys_are_made_anew_where_their_frequencies_change():
    model = build_model(SECTION.completed(), VOCAB_SIZE).eval()
    bend(model)
    assert sum(PARTS) > SHORT_CONTEXT
    assert furthest(model, model.new_cache()) <= 1e-5
    assert furthest(model, plain_cache(model)) > 1e-2
