from dataclasses import replace
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from distrain.config.models import FAMILIES, LlamaConfig
from distrain.loss import summed_cross_entropy
from distrain.models import MODELS, build_model
from distrain.models.attention import undivided
from distrain.models.init import initialize
from tests.distrain.models.layouts import layout_of

VOCAB_SIZE = 97
SMALL = LlamaConfig(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48
)
GROUPED = SMALL.model_copy(update={"num_key_value_heads": 2})
TIED = SMALL.model_copy(update={"tie_word_embeddings": True})


def small_model(config=SMALL, dtype=torch.float32):
    model = build_model(config, VOCAB_SIZE)
    initialize(model, seed=3)
    return model.to(dtype).eval()


def random_ids(*shape, seed=0):
    return torch.randint(VOCAB_SIZE, shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("config", [SMALL, GROUPED])
def test_later_tokens_do_not_change_earlier_logits(config):
    model = small_model(config, torch.float64)
    ids = random_ids(1, 20)
    changed = ids.clone()
    changed[0, 12:] = random_ids(8, seed=1)
    before, after = model(ids), model(changed)
    torch.testing.assert_close(after[:, :12], before[:, :12], rtol=0, atol=1e-12)
    assert (after[:, 12:] - before[:, 12:]).abs().max() > 1e-3


@pytest.mark.parametrize("config", [SMALL, GROUPED])
def test_document_mask_isolates_documents(config):
    model = small_model(config)
    ids = random_ids(1, 20)
    documents = torch.tensor([[0] * 8 + [1] * 12])
    changed = ids.clone()
    changed[0, :8] = random_ids(8, seed=1)
    before, after = (
        model(ids, documents=layout_of(documents)),
        model(changed, documents=layout_of(documents)),
    )
    assert torch.equal(after[:, 8:], before[:, 8:])
    assert not torch.equal(model(changed)[:, 8:], model(ids)[:, 8:])


@pytest.mark.parametrize("with_positions", [False, True])
def test_packed_documents_get_the_logits_they_get_alone(with_positions):
    model = small_model(dtype=torch.float64)
    lengths = (5, 1, 9)
    rows = [random_ids(1, length, seed=length) for length in lengths]
    documents = torch.cat([torch.full((1, n), i) for i, n in enumerate(lengths)], dim=1)
    positions = torch.cat([torch.arange(n) for n in lengths]).unsqueeze(0)
    packed = model(
        torch.cat(rows, dim=1),
        documents=layout_of(documents, positions if with_positions else None),
    )
    # Without positions too: the rotary embedding only depends on distances.
    alone = torch.cat([model(row) for row in rows], dim=1)
    torch.testing.assert_close(packed, alone, rtol=0, atol=1e-12)


def test_padding_changes_nothing_and_gives_finite_gradients():
    model = small_model(dtype=torch.float64).train()
    ids = random_ids(2, 10)
    documents = torch.zeros(2, 10, dtype=torch.long)
    documents[1, 6:] = -1
    padded = model(ids, documents=layout_of(documents))
    torch.testing.assert_close(padded[1:, :6], model(ids[1:, :6]), rtol=0, atol=1e-12)
    padded.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_one_document_a_row_is_plain_causal_attention():
    model = small_model(dtype=torch.float64)
    ids = random_ids(2, 16)
    masked = model(ids, documents=layout_of(torch.tensor([[4] * 16, [5] * 16])))
    torch.testing.assert_close(masked, model(ids), rtol=0, atol=1e-12)


def test_float64_stays_float64_to_the_loss():
    model = small_model(dtype=torch.float64)
    ids = random_ids(2, 16)
    logits = model(ids, documents=layout_of(torch.zeros(2, 16, dtype=torch.long)))
    assert logits.dtype == torch.float64
    assert summed_cross_entropy(logits, ids).dtype == torch.float64
    # The rotary angles are exact too: float32 angles would differ by about 1e-7.
    shifted = model(
        ids, documents=replace(undivided(ids), position_ids=torch.arange(500, 516).expand(2, 16))
    )
    torch.testing.assert_close(shifted, logits, rtol=0, atol=1e-11)


def test_bf16_is_close_to_fp32():
    exact, rounded = small_model(), small_model(dtype=torch.bfloat16)
    ids = random_ids(2, 64)
    documents = (torch.arange(64) // 20).expand(2, 64)
    logits = rounded(ids, documents=layout_of(documents))
    assert logits.dtype == torch.bfloat16
    expected = exact(ids, documents=layout_of(documents))
    difference = (logits.float() - expected).norm() / expected.norm()
    assert difference < 0.02
    loss = summed_cross_entropy(logits, ids).detach() / ids.numel()
    exact_loss = summed_cross_entropy(expected, ids).detach() / ids.numel()
    assert abs(float(loss - exact_loss)) < 0.01


@pytest.mark.parametrize("config", [SMALL, GROUPED])
def test_autocast_to_bf16_is_close_to_fp32_and_gives_fp32_gradients(config):
    model = small_model(config).train()
    ids = random_ids(2, 64)
    documents = (torch.arange(64) // 20).expand(2, 64)
    expected = model(ids, documents=layout_of(documents)).detach()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(ids, documents=layout_of(documents))
    assert logits.dtype == torch.bfloat16
    assert (logits.detach().float() - expected).norm() / expected.norm() < 0.02
    summed_cross_entropy(logits, ids).backward()
    assert {p.grad.dtype for p in model.parameters() if p.grad is not None} == {torch.float32}


@pytest.mark.parametrize("kind", sorted(LlamaConfig.dropout_fields()))
def test_dropout_acts_in_training_only(kind):
    model = small_model(SMALL.model_copy(update={kind: 0.3}))
    ids = random_ids(1, 16)
    assert torch.equal(model(ids), model(ids))
    assert torch.equal(model(ids), small_model()(ids))
    model.train()
    torch.manual_seed(0)
    first, second = model(ids), model(ids)
    assert not torch.equal(first, second)
    torch.manual_seed(0)
    assert torch.equal(model(ids), first)


SIZES = [
    {"hidden_size": heads * 2 * size, "num_attention_heads": heads, "num_key_value_heads": kv_heads}
    | {"intermediate_size": 24 + 8 * layers, "num_hidden_layers": layers}
    | {"tie_word_embeddings": tied}
    for heads, kv_heads in ((1, None), (2, 1), (4, None), (4, 2), (6, 3))
    for size in (1, 3)
    for layers in (1, 3)
    for tied in (False, True)
]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_size_computed_without_torch_is_the_size(sizes):
    config = LlamaConfig(**sizes)
    with torch.device("meta"):
        model = build_model(config, VOCAB_SIZE)
    assert config.num_parameters(VOCAB_SIZE) == sum(p.numel() for p in model.parameters())
    layers = model.get_submodule("model.layers")
    matmuls = sum(p.numel() for p in layers.parameters() if p.ndim == 2)
    matmuls += VOCAB_SIZE * config.hidden_size
    attention = 12 * config.num_hidden_layers * config.hidden_size * 10
    assert config.flops_per_token(VOCAB_SIZE, 10) == 6 * matmuls + attention


def test_flops_are_those_that_torch_counts():
    model = small_model().train()
    ids = random_ids(2, 32)
    # Unfused attention, because torch does not count the fused one of the CPU.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        summed_cross_entropy(model(ids), ids).backward()
    assert counter.get_total_flops() / 64 == pytest.approx(
        SMALL.flops_per_token(VOCAB_SIZE, 32), rel=1e-9
    )


def test_tied_embedding_is_one_parameter_and_gets_both_gradients():
    model = small_model(TIED, torch.float64).train()
    assert model.lm_head.weight is model.model.embed_tokens.weight
    ids = random_ids(1, 8)
    summed_cross_entropy(model(ids), ids).backward()
    unused = [token for token in range(VOCAB_SIZE) if token not in ids]
    assert model.lm_head.weight.grad[unused].abs().sum() > 0  # through the output layer only
    assert model.lm_head.weight.grad[ids].abs().sum() > 0


def test_learns_a_repeating_text():
    model = small_model().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    ids = random_ids(1, 12).repeat(1, 3)
    for _ in range(60):
        loss = F.cross_entropy(model(ids)[0, :-1], ids[0, 1:])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert float(loss.detach()) < 0.5


def test_every_family_has_both_halves():
    assert list(FAMILIES) == list(MODELS)
    for name, family in FAMILIES.items():
        assert get_args(family.model_fields["name"].annotation) == (name,)


@pytest.mark.parametrize("is_autocast", [False, True])
def test_the_loss_within_the_forward_pass_is_that_of_its_logits_bit_by_bit(is_autocast):
    model, ids = small_model(), random_ids(3, 16)
    if is_autocast:  # as the engines do it
        model.forward = torch.autocast("cpu", dtype=torch.bfloat16)(model.forward)
    logits = model(ids)
    assert logits.dtype == (torch.bfloat16 if is_autocast else torch.float32)
    sums = model(ids, target_ids=ids, rows=(2, 1))
    assert sums.dtype == torch.float32
    expected = [summed_cross_entropy(logits[a:b], ids[a:b]) for a, b in ((0, 2), (2, 3))]
    assert torch.equal(sums, torch.stack(expected))
    assert model(ids, target_ids=ids).shape == ids.shape
