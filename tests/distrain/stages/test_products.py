"""A stage is built from the very checkpoint that stands for another, or not at all."""

import json
import random
import shutil

import pytest

from distrain.checkpoint.commit import Commit, read_commit, write_commit
from distrain.checkpoint.content import join, sum_hashes
from distrain.config.reading.load import load_recipe
from distrain.errors import NotFoundError, PreflightError
from distrain.parallel.collectives import HostGroup
from distrain.parallel.global_tensor import whole
from distrain.runs.folder import RunFolder
from distrain.runs.products import Product, read_sources, write_sources
from distrain.runs.records import write_json
from distrain.stages.context import StageContext
from distrain.stages.products import build_on, find_product
from tests.distrain.checkpoint.states import cut, full_tensors, manager
from tests.ranks import run_ranks
from tests.tiny import write_line, write_recipe

DONE = {"state": "done", "attempt": 1, "step": 20, "requeue": False, "time": ""}


def train(run, stage, steps, seed=0):
    """Leave what a training stage leaves that is done after the last of ``steps``."""
    folder = run.stage(stage)
    checkpoints = manager(folder.path, keep_last=9)
    for step in steps:
        content = checkpoints.save_and_wait(step, cut(full_tensors(step + seed), "rows", 0, 1), {})
    result = {"steps": step, "checkpoint": {"step": step, "product": content.product}}
    write_json(folder.result, result)
    write_json(folder.state, DONE)
    return Product(step, content.product)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return load_recipe(write_recipe(tmp_path_factory.mktemp("recipe"))).recipe


@pytest.fixture
def run(tmp_path):
    run = RunFolder(tmp_path / "tiny")
    train(run, "pretrain", (15, 20))
    return run


def last(run):
    return run.stage("pretrain").checkpoints / "step_000020"


def flip(path):
    content = bytearray(path.read_bytes())
    content[random.Random(0).randrange(len(content))] ^= 1
    path.write_bytes(content)


def other_whole_one(run):
    """Put a whole checkpoint of the same step in the place of the product."""
    foreign = RunFolder(run.root.with_name("other"))
    train(foreign, "pretrain", (15, 20), seed=1)
    shutil.rmtree(last(run))
    shutil.copytree(last(foreign), last(run))


DAMAGES = {
    "a flipped bit": (
        lambda run: flip(last(run) / "__0_0.distcp"),
        "step_000020: __0_0.distcp does not match its digest",
    ),
    "gone": (
        lambda run: shutil.rmtree(last(run)),
        r"no checkpoint of step 20 \(there are: step_000015\)",
    ),
    "all gone": (
        lambda run: shutil.rmtree(run.stage("pretrain").checkpoints),
        r"no checkpoint of step 20 \(there are: none at all\)",
    ),
    "another one": (other_whole_one, "step_000020: its content is [0-9a-f]{16}, not [0-9a-f]{16}"),
}


@pytest.mark.parametrize(("damage", "found"), DAMAGES.values(), ids=DAMAGES)
def test_a_product_that_is_not_whole_is_refused_with_the_remedy(run, damage, found):
    assert find_product(run, "pretrain", HostGroup()).checkpoint == last(run)
    damage(run)
    with pytest.raises(PreflightError, match=found) as caught:
        find_product(run, "pretrain", HostGroup())
    assert caught.value.exit_code == 4
    assert "`distrain resume tiny --from pretrain`" in caught.value.remedy


def test_a_stage_that_was_not_run_is_not_found(run):
    with pytest.raises(NotFoundError, match="Run the stage 'sft' first"):
        find_product(run, "sft", HostGroup())


def test_a_second_save_of_the_same_step_serves_as_well(run):
    """As when a run is killed between its last checkpoint and its result."""
    shutil.copytree(last(run), last(run).with_name("step_000020.1"))
    assert find_product(run, "pretrain", HostGroup()).checkpoint.name == "step_000020.1"
    flip(last(run).with_name("step_000020.1") / ".metadata")
    assert find_product(run, "pretrain", HostGroup()).checkpoint == last(run)


def find_on_ranks(run):
    host = HostGroup()
    with pytest.raises(PreflightError, match=r"__0_0\.distcp does not match its digest"):
        find_product(run, "pretrain", host)


def test_all_ranks_hear_what_one_has_found(run):
    flip(last(run) / "__0_0.distcp")
    run_ranks(run.root, 3, find_on_ranks, run)


def test_a_stage_records_what_it_is_built_on_as_it_begins(run, recipe):
    sources = build_on(StageContext(recipe, run, "sft", 1), HostGroup())
    assert sources == {"pretrain": last(run)}
    named = json.loads(run.stage("pretrain").result.read_text())["checkpoint"]
    assert read_sources(run.stage("sft")) == {"pretrain": Product(20, named["product"])}
    tuned = train(run, "sft", (10,))
    assert set(build_on(StageContext(recipe, run, "export", 1), HostGroup())) == {"pretrain", "sft"}
    assert read_sources(run.stage("export"))["sft"] == tuned


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    return load_recipe(write_line(tmp_path_factory.mktemp("line"))).recipe


def begin_line(run, line):
    """Train stages of a kind one after the other, each built on the one before."""
    made = {"pretrain": Product(20, content_of(20))}
    for seed, stage in enumerate(("anneal", "sft", "sft2"), 1):
        build_on(StageContext(line, run, stage, 1), HostGroup())
        made[stage] = train(run, stage, (10,), seed)
    return made


def test_a_stage_records_all_that_its_model_was_made_of(run, line):
    made = begin_line(run, line)
    names = list(made)
    for number, stage in enumerate(names):
        assert list(read_sources(run.stage(stage)).items()) == list(made.items())[:number]
    sources = build_on(StageContext(line, run, "export", 1), HostGroup())
    assert list(sources) == ["anneal", "sft", "sft2"]  # what is read: weights hold what was before
    assert read_sources(run.stage("export")) == made


def test_what_is_below_the_weights_may_be_gone_but_not_another_one(run, line):
    begin_line(run, line)
    shutil.rmtree(run.stage("pretrain").checkpoints)
    build_on(StageContext(line, run, "export", 1), HostGroup())
    train(run, "pretrain", (20,), seed=9)
    with pytest.raises(PreflightError, match=r"stage anneal: found that it was built on step 20"):
        build_on(StageContext(line, run, "evaluate", 1), HostGroup())


@pytest.mark.parametrize("stage", ["anneal", "sft", "sft2"])
def test_each_part_of_a_model_is_refused_by_the_name_of_its_stage(stage, run, line):
    begin_line(run, line)
    flip(run.stage(stage).checkpoints / "step_000010" / "__0_0.distcp")
    with pytest.raises(PreflightError, match=r"__0_0\.distcp does not match its digest") as caught:
        build_on(StageContext(line, run, "export", 1), HostGroup())
    assert caught.value.exit_code == 4
    assert f"`distrain resume tiny --from {stage}`" in caught.value.remedy


def test_a_stage_that_has_trained_does_not_change_over(run, recipe):
    context = StageContext(recipe, run, "sft", 1)
    build_on(context, HostGroup())
    first = read_sources(run.stage("sft"))
    second = train(run, "pretrain", (20,), seed=1)
    build_on(context, HostGroup())  # it has made nothing yet
    assert read_sources(run.stage("sft")) == {"pretrain": second} != first
    train(run, "sft", (5,))
    build_on(context, HostGroup())
    train(run, "pretrain", (20,), seed=2)
    with pytest.raises(PreflightError, match=r"stage sft: found that it was built on step 20"):
        build_on(context, HostGroup())
    assert read_sources(run.stage("sft")) == {"pretrain": second}


def test_parts_that_do_not_belong_together_are_not_put_together(run, recipe):
    train(run, "sft", (10,))
    write_sources(run.stage("sft"), {"pretrain": Product(20, "of another pretraining")})
    with pytest.raises(PreflightError, match="stage sft: found that it was built on"):
        build_on(StageContext(recipe, run, "export", 1), HostGroup())
    assert not run.stage("export").built_on.exists()


def test_an_older_result_and_commit_are_read_and_their_content_is_recorded(run, recipe):
    write_json(run.stage("pretrain").result, {"steps": 20})
    commit = read_commit(last(run))
    (last(run) / "commit.json").unlink()
    write_commit(last(run), Commit(20, 1, commit.files))
    build_on(StageContext(recipe, run, "sft", 1), HostGroup())
    assert commit.content is not None
    assert read_sources(run.stage("sft")) == {"pretrain": Product(20, commit.content.product)}


def test_the_last_step_of_an_older_result_is_taken_and_no_other(run):
    write_json(run.stage("pretrain").result, {"steps": 15})
    found = find_product(run, "pretrain", HostGroup())
    assert found.checkpoint.name == "step_000015"
    assert found.identified() == Product(15, content_of(15))


def content_of(seed):
    tensors = {name: whole(t, writes=True) for name, t in full_tensors(seed).items()}
    return join([sum_hashes(tensors)]).product


def test_a_best_checkpoint_that_is_not_there_is_told_both_reasons(tmp_path):
    run = RunFolder(tmp_path)
    write_json(run.stage("pretrain").result, {"steps": 4, "checkpoint": {"step": 4}})
    write_json(run.stage("pretrain").state, {"state": "done", "attempt": 1, "step": 4})
    with pytest.raises(NotFoundError, match="no validation gave a finite value") as caught:
        find_product(run, "pretrain", HostGroup(), "best")
    assert caught.value.remedy.startswith("Take from_checkpoint: last, which is there.")
