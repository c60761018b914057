"""What a model writes while it trains depends on its weights alone: not on ranks or restarts."""

import json
import shutil
from itertools import pairwise

import pytest

from distrain.data.tokenizer.tokenizer import Tokenizer, train_tokenizer
from distrain.errors import RecipeError
from distrain.evaluation.samples import SamplePrompts
from distrain.runs.records import STEP
from tests.distrain.train.synthetic import ENGINES, VOCAB_SIZE, finish, make_run, make_stage
from tests.ranks import run_ranks

STEPS = 12
IDS = ([7, 8, 9], [11, 14, 17, 20, 23], [30], list(range(40, 52)))


def prompts_of(path, every=1, end_ids=frozenset(), new=6):
    tokenizer = Tokenizer.load(path)
    texts = [tokenizer.decode(ids) for ids in IDS]
    return SamplePrompts(texts, IDS, frozenset(end_ids), tokenizer, new, every)


@pytest.fixture
def tokenizer(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(train_tokenizer(["a rose is a rose"], vocab_size=300, min_frequency=2))
    assert Tokenizer.load(path).vocab_size > VOCAB_SIZE
    return path


def stage_of(engine, precision="fp64", dropout=0.0):
    return make_stage(
        precision=precision,
        max_steps=STEPS,
        dropout=dropout,
        parallelism=ENGINES[engine],
        optimizer={"learning_rate": 3e-2},
        checkpoint={"save_steps": 5, "keep_last": 9},
        eval={"eval_steps": 4},
    )


def write(folder, stage, prompts, stop=None):
    finish(make_run(folder, stage, prompts=prompts), stop)


def samples(folder):
    return [json.loads(line) for line in (folder / "pretrain" / "samples.jsonl").open()]


def at_steps(folder):
    """The texts by the step at which they were written."""
    found: dict[int, list[str]] = {}
    for record in samples(folder):
        found.setdefault(record[STEP], []).append(record["text"])
    return found


def written(folder, engine, path, precision="fp64"):
    """Train with an engine; returns its records."""
    ranks = 1 if engine == "single" else 2
    prompts = prompts_of(path)
    run_ranks(folder / "ranks", ranks, write, folder, stage_of(engine, precision), prompts)
    return samples(folder)


def test_two_ranks_and_shards_write_what_one_rank_does(tmp_path, tokenizer):
    found = written(tmp_path / "fsdp", "fsdp", tokenizer)
    assert found == written(tmp_path / "single", "single", tokenizer)
    texts = at_steps(tmp_path / "fsdp")
    assert list(texts) == [0, 4, 8, 12]
    assert {len(each) for each in texts.values()} == {len(IDS)}
    # Other weights write other texts, so that equal ones say something.
    assert all(before != after for before, after in pairwise(texts.values()))
    assert len(set(texts[12])) > 1


@pytest.mark.seams
@pytest.mark.parametrize("engine", ["ddp", "zero1", "zero3"])
def test_every_engine_writes_the_same(engine, tmp_path, tokenizer):
    found = written(tmp_path / engine, engine, tokenizer, "fp32")
    expected = written(tmp_path / "single", "single", tokenizer, "fp32")
    # Sums over ranks are rounded otherwise, and in the end so are the weights.
    assert found[: 2 * len(IDS)] == expected[: 2 * len(IDS)]
    assert len(found) == len(expected)


def cut_and_go_on(folder, prompts):
    stage = stage_of("fsdp", dropout=0.1)
    write(folder / "whole", stage, prompts)
    write(folder / "cut", stage, prompts, stop=9)
    run = make_run(folder / "cut", stage, prompts=prompts)
    if run.host.rank == 0:
        shutil.rmtree(folder / "cut" / "pretrain" / "checkpoints" / "step_000009")
    run.host.barrier()
    finish(run)


def test_a_run_that_lost_steps_has_the_same_file(tmp_path, tokenizer):
    run_ranks(tmp_path / "ranks", 2, cut_and_go_on, tmp_path, prompts_of(tokenizer))
    whole, cut = (tmp_path / name / "pretrain" / "samples.jsonl" for name in ("whole", "cut"))
    assert whole.read_bytes() == cut.read_bytes()
    # Control: it went on from step 5, before a text that had been written: after step 8.
    assert '"lost_records":5' in (tmp_path / "cut" / "events.jsonl").read_text().replace(" ", "")


def test_every_second_time_up_to_what_ends_a_text(tmp_path, tokenizer):
    # Whatever comes ends a text.
    prompts = prompts_of(tokenizer, every=2, end_ids=range(VOCAB_SIZE))
    run_ranks(tmp_path / "ranks", 1, write, tmp_path / "seldom", stage_of("single"), prompts)
    found = samples(tmp_path / "seldom")
    assert [record[STEP] for record in found] == [0] * 4 + [8] * 4 + [12] * 4
    assert {(record["text"], record["ended"]) for record in found} == {("", "stop")}
    lines = (tmp_path / "seldom" / "pretrain" / "metrics.jsonl").read_text().splitlines()
    timed = [json.loads(line)[STEP] for line in lines if "perf/samples_s" in line]
    assert timed == [0, 8, 12]


def test_a_prompt_that_does_not_fit_is_refused(tokenizer):
    prompts = prompts_of(tokenizer)
    prompts.require_room(18)
    with pytest.raises(RecipeError, match=r"eval\.samples\.prompts\[3\]: found 12 tokens"):
        prompts.require_room(17)
