"""One number for what a checkpoint holds: the same however it is cut, another for any change."""

import hashlib
from pathlib import Path

import pytest
import torch

from distrain.checkpoint.commit import Content, read_commit
from distrain.checkpoint.content import (
    BLOCK,
    FIRST,
    MODULUS,
    PLACE,
    SECOND,
    join,
    product_of_files,
    sum_hashes,
)
from distrain.optim.state import ScalarState
from distrain.parallel.collectives import HostGroup
from tests.distrain.checkpoint.states import cut, full_tensors, manager, names
from tests.distrain.parallel.tiny_model import Case, engine_of, train
from tests.ranks import run_ranks

CUTS = [
    *(("rows", ranks) for ranks in (1, 2, 4)),
    *(("columns", ranks) for ranks in (2, 3)),
    *((f"ranges:{seed}", ranks) for seed, ranks in enumerate((2, 3, 4, 7))),
    ("replica", 3),
]


def content(tensors, how="rows", ranks=1, left_out=None):
    """Digest whole tensors as so many ranks would."""
    parts = [cut(tensors, how, rank, ranks) for rank in range(ranks) if rank != left_out]
    return join(map(sum_hashes, parts))


def expected(tensors):
    """Compute the product's digest as it is defined, one element after another."""
    total = 0
    for name, tensor in tensors.items():
        if not name.startswith(("model/", "buffer/")):
            continue
        form = f"{name} {str(tensor.dtype)[len('torch.') :]} {list(tensor.shape)}"
        seed = int.from_bytes(hashlib.blake2b(form.encode(), digest_size=8).digest())
        raw, size = tensor.numpy().tobytes(), tensor.element_size()
        for place in range(tensor.numel()):
            bits = int.from_bytes(raw[place * size : (place + 1) * size], "little")
            mixed = bits + place * PLACE + seed
            for factor in (FIRST, SECOND):
                mixed = mixed * factor % MODULUS
                mixed ^= mixed >> 32
            total += mixed
    return f"{total % MODULUS:016x}"


def test_it_is_what_it_is_defined_to_be_and_stays_so():
    tensors = full_tensors(0)
    assert content(tensors).product == expected(tensors)
    fixed = {"model/w": torch.arange(6.0).view(2, 3), "exp_avg/w": torch.ones(2)}
    assert content(fixed) == Content("a32aa0f2d82b3658", "a2933331bf3310a7")  # kept in run folders


@pytest.mark.parametrize(("how", "ranks"), CUTS)
def test_every_cut_gives_the_same_sum(how, ranks):
    tensors = full_tensors(1)
    assert content(tensors, how, ranks) == content(tensors)
    if ranks > 1:  # the control
        assert content(tensors, how, ranks, left_out=0) != content(tensors)


@pytest.mark.parametrize("shape", [(BLOCK + 5,), (3, BLOCK + 1), (2 * BLOCK // 7, 7), (5, 3, 4001)])
def test_tensors_of_several_blocks_are_cut_anywhere(shape):
    tensors = {"model/large": torch.randn(shape)}
    for how, ranks in (("rows", 2), ("columns", 3), ("ranges:1", 3)):
        assert content(tensors, how, ranks) == content(tensors)
    assert content(tensors).product == expected(tensors)


@pytest.mark.parametrize(
    "dtype", ["float64", "float32", "bfloat16", "float16", "int64", "uint8", "bool"]
)
def test_every_flipped_bit_changes_it(dtype):
    tensor = torch.arange(4).to(getattr(torch, dtype))
    before = content({"model/w": tensor})
    seen = {before}
    bits = tensor.view(torch.uint8)
    for byte in range(bits.numel()):
        for bit in range(1 if dtype == "bool" else 8):
            bits[byte] ^= 1 << bit
            seen.add(content({"model/w": tensor}))
            bits[byte] ^= 1 << bit
    assert len(seen) == 1 + bits.numel() * (1 if dtype == "bool" else 8)
    assert content({"model/w": tensor}) == before


def swap(tensor):
    changed = tensor.clone()
    changed.view(-1)[[0, 1]] = tensor.view(-1)[[1, 0]]
    return changed


CHANGES = {
    "two elements swapped": lambda w: {"model/w": swap(w)},
    "two signs flipped": lambda w: {"model/w": torch.cat([-w[:1], -w[1:]])},
    "another name": lambda w: {"model/v": w},
    "another shape": lambda w: {"model/w": w.view(3, 2)},
    "another type with the same bits": lambda w: {"model/w": w.view(torch.int32)},
    "zero of the other sign": lambda w: {"model/w": torch.where(w == 0, -0.0, w)},
    "one tensor more": lambda w: {"model/w": w, "model/v": torch.zeros(1)},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_other_content_has_another_digest(change):
    tensor = torch.tensor([[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]])
    before = content({"model/w": tensor})
    assert content({"model/w": tensor.clone()}) == before
    assert content(change(tensor)).product != before.product


def test_what_serves_the_stage_alone_does_not_name_the_product():
    tensors = full_tensors(2)
    before = content(tensors)
    tensors["exp_avg/embed.weight"][0, 0] += 1
    after = content(tensors)
    assert (after.product, after.rest != before.rest) == (before.product, True)


CASES = {
    2: [Case("ddp"), Case("deepspeed", stage=3)],
    4: [Case("fsdp", microbatch=2), Case("fsdp", microbatch=2, replicate=2)],
}


def save_alone(folder: Path) -> Content:
    engine = engine_of(Case())
    train(engine, range(3), 4)
    extra = {"optimizer": engine.optimizer_scalars().to_json()}
    return manager(folder).save_and_wait(3, engine.state(), extra)


def take_over_and_save(folder: Path) -> None:
    import distrain.parallel.engines.deepspeed as zero

    zero.PERSISTENT_NUMEL = 10  # the tiny model's parameters are all too small to be cut
    host = HostGroup()
    kept = read_commit(folder / "checkpoints" / "step_000003").content
    for number, case in enumerate(CASES[host.world_size]):
        engine = engine_of(case)
        restored = manager(folder).restore(engine.state())
        assert restored is not None
        engine.loaded(ScalarState.from_extra(restored[1]))
        again = folder / f"{host.world_size}-{number}"
        assert manager(again).save_and_wait(3, engine.state(), {}) == kept, case
        assert read_commit(again / "checkpoints" / "step_000003").content == kept, case
        train(engine, range(3, 4), case.microbatch)  # the control
        later = manager(again).save_and_wait(4, engine.state(), {})
        assert kept is not None
        assert (later.product != kept.product, later.rest != kept.rest) == (True, True), case
        engine.close()


def test_it_is_the_same_under_every_engine_and_number_of_ranks(tmp_path):
    kept = save_alone(tmp_path)
    checkpoint = tmp_path / "checkpoints" / "step_000003"
    assert read_commit(checkpoint).content == kept
    assert product_of_files(checkpoint) == kept.product
    for ranks in CASES:
        run_ranks(tmp_path, ranks, take_over_and_save, tmp_path)


def test_a_moment_on_disk_that_has_no_digest_gets_one(tmp_path, monkeypatch):
    state = cut(full_tensors(0), "rows", 0, 1)
    checkpoints = manager(tmp_path)
    kept = checkpoints.save_and_wait(5, state, {})
    monkeypatch.setattr(checkpoints, "_content", None)  # as after restoring an older version's
    assert checkpoints.save_and_wait(5, state, {}) == kept
    assert names(tmp_path / "checkpoints") == ["step_000005"]
