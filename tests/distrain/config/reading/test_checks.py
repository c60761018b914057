"""Mistakes between sections and stages; the kept set has one file of most, here are the rest."""

import pytest

from distrain.config.reading.load import load_recipe
from distrain.config.reading.problems import RecipeErrors
from tests.distrain.config.conftest import TINY, stages_of
from tests.distrain.tasks import pairwise


def messages_of(recipe, *pairs):
    text = TINY
    for found, replaced in pairs:
        assert found in text
        text = text.replace(found, replaced)
    recipe.write_text(text)
    with pytest.raises(RecipeErrors) as caught:
        load_recipe(recipe)
    return [problem.message for problem in caught.value.problems]


SFT_NEEDS = "    kind: sft\n    needs: pretrain\n"
OWN_MODEL = "    kind: sft\n    model: {from_pretrained: models/mine}\n"


def test_fine_tuning_may_start_from_a_users_folder_and_pairs(recipe):
    own = OWN_MODEL + "    data: {path: pairs.jsonl}\n"
    recipe.write_text(TINY.replace(SFT_NEEDS, own).replace("needs: sft}", "needs: pretrain}"))
    sft = stages_of(load_recipe(recipe))["sft"]
    assert (sft.needs, sft.model.from_pretrained) == ((), "models/mine")
    assert sft.model.hidden_size == 192  # nothing is inherited


def test_a_users_folder_needs_a_users_pairs(recipe):
    assert messages_of(recipe, (SFT_NEEDS, OWN_MODEL), ("needs: sft}", "needs: pretrain}")) == [
        "with model.from_pretrained the pairs come from a file; "
        "set data.path to a JSONL file with prompt and answer"
    ]


def test_what_started_from_a_users_folder_has_no_test_split(recipe):
    own = OWN_MODEL + "    data: {path: pairs.jsonl}\n"
    assert messages_of(recipe, (SFT_NEEDS, own)) == [
        "'sft' starts from a folder, so no prepare stage holds a test split back; remove this "
        "stage, set its data or harness, or data.test_fraction of 'sft'"
    ]


def test_own_data_may_hold_a_test_split_of_its_own(recipe):
    own = OWN_MODEL + "    data: {path: pairs.jsonl, test_fraction: 0.1}\n"
    recipe.write_text(recipe.read_text().replace(SFT_NEEDS, own))
    data = stages_of(load_recipe(recipe))["sft"].data
    assert data.is_own
    assert data.test_fraction == 0.1


EVALUATE = "  evaluate: {kind: evaluate, needs: sft}\n"


@pytest.mark.parametrize("needs", ["sft", "pretrain"])
def test_one_stage_opens_the_test_split_of_a_run(recipe, needs):
    second = f"  again: {{kind: evaluate, needs: {needs}}}\n"
    assert messages_of(recipe, (EVALUATE, EVALUATE + second)) == [
        "kind: found a second stage that opens the run's test split, after 'evaluate'; expected "
        "one look a run, so that nothing is chosen by the test figures; remove one of the two, "
        "set its data, or set harness at 'evaluate'"
    ]


@pytest.mark.parametrize(
    "second",
    [
        "{kind: evaluate, needs: sft, data: {path: mine.jsonl}}",
        "{kind: evaluate, model: {from_pretrained: mine}, harness: {tasks: [piqa]}}",
    ],
)
def test_a_stage_that_leaves_the_test_split_closed_may_stand_beside(recipe, second):
    recipe.write_text(TINY.replace(EVALUATE, f"{EVALUATE}  again: {second}\n"))
    assert "again" in stages_of(load_recipe(recipe))


def test_a_model_comes_from_one_place(recipe):
    own = OWN_MODEL + "    needs: pretrain\n"
    assert messages_of(recipe, (SFT_NEEDS, own), ("needs: sft}", "needs: pretrain}")) == [
        "the model comes from 'pretrain' or from this folder, not both; remove one"
    ]


def test_pairs_from_a_file_need_no_pairs_of_the_prepare_stage(recipe):
    text = TINY.replace("    pairs: {kind: docstrings}\n", "")
    recipe.write_text(text.replace(SFT_NEEDS, SFT_NEEDS + "    data: {path: pairs.jsonl}\n"))
    assert stages_of(load_recipe(recipe))["sft"].data.path == "pairs.jsonl"


@pytest.mark.parametrize(
    ("found", "replaced", "message"),
    [
        (
            "needs: prepare",
            "needs: [prepare, sft]",
            "the stages need each other in a circle: pretrain -> sft -> pretrain; remove one need",
        ),
        ("needs: prepare", "needs: pretrain", "stage 'pretrain' needs itself; name the stage that "
         "it starts from"),
        (
            "needs: sft}",
            "needs: [pretrain, sft]}",
            "found 2 needs; evaluate needs exactly one pretrain, sft or preference stage, "
            "such as needs: sft",
        ),
        (
            "needs: sft}",
            "needs: prepare}",
            "'prepare' is of kind prepare; evaluate needs exactly one pretrain, sft or "
            "preference stage, "
            "such as needs: sft; or set model.from_pretrained and need a prepare stage",
        ),
        ("needs: sft}", "needs: []}", "stage 'evaluate' needs nothing; evaluate needs exactly one "
         "pretrain, sft or preference stage, such as needs: sft; or set "
         "model.from_pretrained and need a "
         "prepare stage"),
        ("    kind: prepare\n", "    kind: prepare\n    needs: sft\n",
         "the stages need each other in a circle: prepare -> sft -> pretrain -> prepare; "
         "remove one need"),
        (
            "{kind: docstrings}",
            "{kind: docstrings, min_answer_characters: 500}",
            "pairs.min_answer_characters: found 500; expected at most "
            "pairs.max_answer_characters, 400",
        ),
        (
            "{processes_per_node: 2}",
            "{backend: torchrun, nodes: 2}",
            "launch.nodes: found 2 with launch.backend torchrun, but no launch.rendezvous; "
            "set it to host:port of the first node, such as node01:29500",
        ),
        (
            "{processes_per_node: 2}",
            "{spare_nodes: 2}",
            "launch.spare_nodes: found 2 with launch.backend local, which has no nodes to give; "
            "expected 0; set launch.backend to slurm, or launch.spare_nodes to 0",
        ),
        (
            "{processes_per_node: 2}",
            "{rendezvous: node01}",
            "launch.rendezvous: found the text 'node01'; "
            "expected host:port, such as node01:29500",
        ),
        ("  evaluate:", "  4th:", "'4th' cannot be a stage's name; expected a letter, "
         "then letters, digits, '_' or '-'"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_said_once(found, replaced, message, recipe):
    assert messages_of(recipe, (found, replaced)) == [message]


def test_a_mistake_in_one_section_hides_no_check_of_the_others(recipe):
    found = messages_of(
        recipe,
        ("    model: {", "    lr_scheduler: {warmup_steps: 11}\n    model: {dropuot: 0, "),
        ("{processes_per_node: 2}", "{processes_per_node: 3, max_restarts: -1}"),
        ("needs: sft}", "needs: stf}"),
    )
    assert found == [
        "lr_scheduler.warmup_steps: found 11; expected at most the 10 steps of the run",
        "unknown key 'dropuot' in model; did you mean 'dropout'?",
        "needs: no stage is called 'stf'; did you mean 'sft'?",
        "launch.max_restarts: found -1; expected a number of at least 0",
    ]


def test_tokens_are_counted_in_steps_for_the_warm_up(recipe):
    tokens = 64 * 8 * 3
    assert messages_of(
        recipe,
        ("training: {max_steps: 10}", f"training: {{max_tokens: {tokens}}}"),
        ("    needs: prepare\n", "    needs: prepare\n    lr_scheduler: {warmup_steps: 4}\n"),
    ) == ["lr_scheduler.warmup_steps: found 4; expected at most the 3 steps of the run"]


def test_a_task_that_is_not_there_or_cannot_read_the_stages_batches_is_refused(recipe):
    (message,) = messages_of(recipe, ("max_steps: 10}", "max_steps: 10, task: casual_lm}"))
    assert message == (
        "unknown training.task 'casual_lm'; expected one of: causal_lm, preference; did "
        "you mean 'causal_lm'?"
    )
    with pairwise.registered():
        (message,) = messages_of(recipe, ("max_steps: 5}", "max_steps: 5, task: pairwise}"))
    assert message == (
        "training.task: found pairwise in a stage of kind sft, whose batches it cannot read; "
        "expected causal_lm here; set it to that, or move the task to a stage of kind pretrain"
    )
