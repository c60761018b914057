"""A checkpoint saved under any layout holds, loaded under any other, the same bits."""

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.distrain.axes.harness import Case, digest_of, open_run
from tests.distrain.train.synthetic import finish
from tests.ranks import run_ranks

pytestmark = pytest.mark.axes
STEPS = 3
DENSE: dict[str, dict[str, Any]] = {
    "single": {},
    "FSDP2": {"data_parallel_shard": 2},
    "TP x FSDP2": {"tensor_parallel": 2, "data_parallel_shard": 2},
    "PP x FSDP2": {"pipeline_parallel": 2, "data_parallel_shard": 2},
    "CP": {"context_parallel": 2},
    "HSDP": {"data_parallel_replicate": 2, "data_parallel_shard": 2},
    "ZeRO-3": {"strategy": "deepspeed", "data_parallel_shard": 2},
}
EXPERTS = {
    **DENSE,
    "EP": {"expert_parallel": 2},
    "EP x FSDP2": {"expert_parallel": 2, "data_parallel_shard": 2},
}
FAMILIES = {
    # A tied table, an odd vocabulary, and queries, keys and values packed in one matrix.
    "gpt2": (DENSE, 121),
    "phi3": (DENSE, 121),
    "mixtral": (EXPERTS, 120),
}
"""Family -> its layouts, and the rows of its vocabulary."""


def case_of(family: str, layout: str) -> Case:
    layouts, vocab_size = FAMILIES[family]
    return Case(family, layouts[layout], steps=STEPS, vocab_size=vocab_size, micro_batch_size=1)


def cut_small_tensors() -> None:
    """Let ZeRO-3 cut tensors that are too small to be worth it."""
    import distrain.parallel.engines.deepspeed as engine

    engine.PERSISTENT_NUMEL = 10


def note(folder: Path, name: str, digest: tuple[str, str], rank: int) -> None:
    if rank == 0:
        (folder / f"{name}.json").write_text(json.dumps(digest))


def save_under(folder: Path, name: str, case: Case) -> None:
    """Train and save, and note the digest of what was held then."""
    cut_small_tensors()
    run = open_run(folder / name, case)
    finish(run)
    note(folder, name, digest_of(run), run.host.rank)


def load_under(folder: Path, name: str, case: Case, saved: tuple[str, ...]) -> None:
    """Load each of the others' checkpoints, and note the digest of what is held then."""
    cut_small_tensors()
    for other in saved:
        run = open_run(folder / f"{other} in {name}", case)
        assert run.restore().step == STEPS
        note(folder, f"{other} in {name}", digest_of(run), run.host.rank)
        run.engine.close()


def load_and_lose_a_number(folder: Path, name: str, case: Case) -> None:
    """Load a checkpoint, change one element on the last rank, and note the digest."""
    run = open_run(folder / name, case)
    run.restore()
    if run.host.rank == run.host.world_size - 1:
        state = run.engine.state()
        box = next(entry.boxes[0] for entry in state.values() if entry.writes and entry.boxes)
        box.tensor.view(-1)[:1] += 1e-6
    note(folder, f"{name} changed", digest_of(run), run.host.rank)


def digests(folder: Path, family: str) -> Iterator[tuple[str, tuple[str, str], tuple[str, str]]]:
    """Yield the pairs of layouts with the digests before and after."""
    layouts, _ = FAMILIES[family]
    for name in layouts:
        case = case_of(family, name)
        run_ranks(folder / "ranks", case.world_size, save_under, folder, name, case)
    for name in layouts:
        for other in layouts:
            shutil.copytree(folder / other, folder / f"{other} in {name}")
        case = case_of(family, name)
        run_ranks(folder / "ranks", case.world_size, load_under, folder, name, case, tuple(layouts))
        for other in layouts:
            yield f"{other} in {name}", read(folder, other), read(folder, f"{other} in {name}")


def read(folder: Path, name: str) -> tuple[str, str]:
    product, rest = json.loads((folder / f"{name}.json").read_text())
    return product, rest


@pytest.mark.parametrize("family", FAMILIES)
def test_every_pair_of_layouts_holds_the_same_bits(family, tmp_path):
    found = {pair: (before, after) for pair, before, after in digests(tmp_path, family)}
    layouts: Mapping[str, Any] = FAMILIES[family][0]
    assert len(found) == len(layouts) ** 2
    assert {pair: both for pair, both in found.items() if both[0] != both[1]} == {}
    # Rounding differs by layout, so what they saved does: equal digests say something.
    assert len({before for before, _ in found.values()}) == len(layouts)


def test_one_number_that_is_lost_shows(tmp_path):
    case = case_of("gpt2", "TP x FSDP2")
    run_ranks(tmp_path / "ranks", case.world_size, save_under, tmp_path, "saved", case)
    run_ranks(tmp_path / "ranks", case.world_size, load_and_lose_a_number, tmp_path, "saved", case)
    product, rest = read(tmp_path, "saved")
    assert read(tmp_path, "saved changed")[0] != product
    assert read(tmp_path, "saved changed")[1] == rest
