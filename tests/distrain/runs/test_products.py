import pytest

from distrain.errors import PreflightError
from distrain.runs.folder import RunFolder
from distrain.runs.products import (
    Product,
    check_sources,
    read_product,
    read_sources,
    write_sources,
)
from distrain.runs.records import write_json

DONE = {"state": "done", "attempt": 1, "step": 20, "requeue": False, "time": ""}


@pytest.fixture
def run(tmp_path):
    run = RunFolder(tmp_path / "try")
    write_json(run.stage("pretrain").state, DONE)
    write_json(run.stage("pretrain").result, {"checkpoint": {"step": 20, "product": "ab"}})
    return run


def test_the_result_names_the_product(run):
    assert read_product(run.stage("pretrain")) == Product(20, "ab")


def test_the_steps_of_an_older_result_name_it(run):
    write_json(run.stage("pretrain").result, {"steps": 20, "tokens": 7})
    assert read_product(run.stage("pretrain")) == Product(20)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"steps": null}',
        '{"checkpoint": 7, "steps": 20}',
        '{"checkpoint": {"step": "20"}}',
        '{"checkpoint": {"step": 20, "product": 7}}',
        "[" * 200_000,
    ],
)
def test_a_result_that_says_no_such_thing_names_none(run, text):
    run.stage("pretrain").result.write_text(text)
    assert read_product(run.stage("pretrain")) is None


def test_no_result_names_none(run):
    assert read_product(run.stage("sft")) is None
    assert read_sources(run.stage("sft")) == {}


def test_a_stage_stays_on_the_product_that_it_was_built_on(run):
    write_sources(run.stage("sft"), {"pretrain": Product(20, "ab")})
    check_sources(run, "sft")
    check_sources(run, "pretrain")  # was built on none


@pytest.mark.parametrize("other", [Product(20, "cd"), Product(15, "ab"), Product(20)])
def test_a_stage_on_another_product_is_refused_by_name(run, other):
    write_sources(run.stage("sft"), {"pretrain": other})
    with pytest.raises(PreflightError) as caught:
        check_sources(run, "sft")
    message = str(caught.value)
    assert message.startswith(f"stage sft: found that it was built on {other} of stage pretrain")
    assert "which now is step 20 (content ab)" in message
    assert f"move {run.stage('sft').path} away" in message


def test_of_a_product_without_a_digest_the_step_is_compared(run):
    write_json(run.stage("pretrain").result, {"steps": 20})
    write_sources(run.stage("sft"), {"pretrain": Product(20, "ab")})
    check_sources(run, "sft")
    write_sources(run.stage("sft"), {"pretrain": Product(15, "ab")})
    with pytest.raises(PreflightError, match="built on step 15"):
        check_sources(run, "sft")


def test_a_product_that_is_being_made_again_is_not_judged(run):
    write_sources(run.stage("sft"), {"pretrain": Product(20, "cd")})
    write_json(run.stage("pretrain").state, DONE | {"state": "stopped"})
    check_sources(run, "sft")
