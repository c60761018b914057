"""Packed documents mean what each means alone, to transformers itself, in every family."""

from itertools import pairwise

import pytest
import torch
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

from distrain.models.attention import DocumentLayout
from distrain.models.transformers.construction import family_config
from tests.distrain.models.transformers.families import FAMILIES, VOCAB_SIZE, bent, section

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
    assert (ours - theirs).abs().max() <= 1e-5
