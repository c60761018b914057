"""What is known of an optimizer without torch: its section, its bytes, what it goes with."""

import pytest

from distrain.config.optimizers import OPTIMIZER_SECTIONS, Kept
from distrain.config.reading.load import load_recipe
from distrain.config.reading.problems import RecipeErrors
from launcher.estimate import checkpoint_bytes, stage_parameters
from tests.distrain.config.conftest import TINY, stages_of
from tests.distrain.optim.toys import registered


@pytest.fixture(autouse=True)
def known():
    with registered():
        yield


def messages_of(recipe, *overrides):
    with pytest.raises(RecipeErrors) as caught:
        load_recipe(recipe, overrides)
    return [problem.message for problem in caught.value.problems]


def test_each_stage_has_the_optimizer_that_it_names_with_its_own_settings(recipe):
    loaded = load_recipe(recipe, ["pretrain.optimizer={name: counted, power: 0.5}"])
    pretrain, sft = (stages_of(loaded)[name].optimizer for name in ("pretrain", "sft"))
    assert (pretrain.name, pretrain.power, pretrain.max_grad_norm) == ("counted", 0.5, 1.0)
    assert (sft.name, sft.betas) == ("adamw", (0.9, 0.95))


def test_what_is_written_for_one_optimizer_is_left_out_where_another_is_chosen_over_it(recipe):
    recipe.write_text(TINY.replace("{learning_rate: 1e-3}", "{learning_rate: 1e-3, eps: 1e-9}"))
    adamw, other = (
        stages_of(load_recipe(recipe, [f"optimizer.name={name}"]))["pretrain"].optimizer
        for name in ("adamw", "counted")
    )
    assert (adamw.learning_rate, adamw.eps) == (1e-3, 1e-9)
    assert (other.learning_rate, other.power) == (1e-3, 0.25)


def test_a_setting_of_another_optimizer_is_a_mistake(recipe):
    (message,) = messages_of(recipe, "pretrain.optimizer={name: counted, eps: 1e-9}")
    assert message.startswith("unknown key 'eps' in optimizer; ")
    assert "betas" not in message


def test_an_optimizer_that_is_not_there_is_told_which_are(recipe):
    (message, *_) = messages_of(recipe, "optimizer.name=conted")
    assert message == (
        f"unknown optimizer.name 'conted'; expected one of: {', '.join(OPTIMIZER_SECTIONS)}; "
        "did you mean 'counted'?"
    )


def test_zero_is_refused_what_is_not_elementwise_before_the_queue(recipe):
    deepspeed = "parallelism.strategy=deepspeed"
    (message, *_) = messages_of(recipe, "optimizer.name=factored", deepspeed)
    assert message == (
        "optimizer.name: found factored with parallelism.strategy deepspeed, which steps flat "
        "pieces of several parameters, and needs an optimizer that works element by element; set "
        "strategy to fsdp, or optimizer.name to adamw or adam or sgd or rmsprop or adagrad or lion "
        "or counted"
    )
    load_recipe(recipe, ["optimizer.name=factored", "parallelism.strategy=fsdp"])
    load_recipe(recipe, ["optimizer.name=counted", deepspeed])


def test_a_checkpoint_is_as_large_as_what_the_optimizer_keeps(recipe):
    adamw, other = (
        load_recipe(recipe, [f"pretrain.optimizer.name={name}"]).recipe
        for name in ("adamw", "counted")
    )
    parameters = stage_parameters(adamw, "pretrain")
    assert parameters is not None
    assert checkpoint_bytes(adamw, "pretrain") == parameters * 12
    assert checkpoint_bytes(other, "pretrain") == parameters * 8


def test_state_of_another_shape_is_not_elementwise():
    with pytest.raises(AssertionError, match="another shape"):
        Kept({}, other_tensors=("row",))


def test_weights_alone_are_taken_on_by_a_further_stage(recipe):
    """The remedy that a checkpoint of another optimizer is refused with."""
    further = (
        "  further:\n    kind: pretrain\n    needs: [prepare, pretrain]\n"
        "    training: {max_steps: 5}\n    optimizer: {name: counted}\n"
    )
    recipe.write_text(TINY.replace("  sft:\n", further + "  sft:\n"))
    stages = stages_of(load_recipe(recipe, ["pretrain.training.max_steps=3"]))
    assert stages["pretrain"].optimizer.name == "adamw"
    assert stages["further"].optimizer.name == "counted"


def test_rules_by_name_are_read_and_written_back(recipe):
    rules = "[{match: '*embed*', lr_ratio: 2.0}, {match: '*norm*', weight_decay: 0.3}]"
    (first, second) = stages_of(load_recipe(recipe, [f"pretrain.optimizer.groups={rules}"]))[
        "pretrain"
    ].optimizer.groups
    assert (first.match, first.lr_ratio, first.weight_decay) == ("*embed*", 2.0, None)
    assert (second.lr_ratio, second.weight_decay) == (1.0, 0.3)
    messages = messages_of(recipe, "pretrain.optimizer.groups=[{macth: '*'}]")
    assert any("macth" in message for message in messages)


def test_a_checkpoint_without_momentum_holds_no_state(recipe):
    with_it, without = (
        load_recipe(recipe, ["pretrain.optimizer.name=sgd", *more]).recipe
        for more in ([], ["pretrain.optimizer.momentum=0.0"])
    )
    parameters = stage_parameters(with_it, "pretrain")
    assert parameters is not None
    assert checkpoint_bytes(with_it, "pretrain") == parameters * 8
    assert checkpoint_bytes(without, "pretrain") == parameters * 4


def test_clipping_is_switched_off_by_null(recipe):
    assert (
        stages_of(load_recipe(recipe, ["optimizer.max_grad_norm=null"]))[
            "pretrain"
        ].optimizer.max_grad_norm
        is None
    )


@pytest.mark.parametrize(
    "section",
    [
        "{name: cosine, warmup_steps: 2, min_lr_ratio: 0.2, decay_steps: null}",
        "{name: constant, warmup_steps: 0, min_lr_ratio: 0.1, decay_steps: null}",
        "{name: wsd, warmup_steps: 0, min_lr_ratio: 0.1, decay_steps: 2}",
        "{name: constant, warmup_steps: 0, min_lr_ratio: 0.1, decay_steps: 2}",
    ],
)
def test_a_schedule_of_an_older_resolved_recipe_is_read(recipe, section):
    stages_of(load_recipe(recipe, [f"pretrain.lr_scheduler={section}"]))


def test_a_warmup_of_one_layer_takes_the_place_of_that_below(recipe):
    recipe.write_text(
        TINY.replace("max_steps: 10}", "max_steps: 10}\n    lr_scheduler: {warmup_steps: 3}")
    )
    schedule = stages_of(load_recipe(recipe, ["pretrain.lr_scheduler.warmup_ratio=0.2"]))[
        "pretrain"
    ].lr_scheduler
    assert (schedule.warmup_steps, schedule.warmup(10)) == (0, 2)


def test_a_rule_that_matches_no_name_is_refused_before_the_queue(recipe):
    (message,) = messages_of(recipe, "pretrain.optimizer.groups=[{match: '*.bias', lr_ratio: 2.0}]")
    assert message == (
        "optimizer.groups[0].match: found '*.bias', which no parameter's name matches; expected a "
        "pattern of names such as model.embed_tokens.weight, "
        "model.layers.0.self_attn.q_proj.weight and lm_head.weight; write * for what differs, as "
        "in *norm.weight"
    )
    load_recipe(recipe, ["pretrain.optimizer.groups=[{match: '*norm.weight', lr_ratio: 2.0}]"])
    load_recipe(recipe, ["sft.optimizer.groups=[{match: '*.lora_B.*', lr_ratio: 2.0}]"])


def test_a_kernel_without_fp64_is_refused_it(recipe):
    (message, *_) = messages_of(recipe, "optimizer.name=adamw_8bit", "training.precision=fp64")
    assert "found fp64 with optimizer.name adamw_8bit" in message
