import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distrain.config.reading.load import load_recipe
from distrain.config.reading.problems import RecipeErrors
from tests.distrain.config.conftest import TINY, stages_of


def test_an_override_without_a_stage_wins_over_a_stages_own_value_and_says_so(recipe):
    loaded = load_recipe(recipe, ["optimizer.learning_rate=3e-4"])
    stages = stages_of(loaded)
    assert stages["sft"].optimizer.learning_rate == 3e-4
    assert stages["pretrain"].optimizer.learning_rate == 3e-4
    assert loaded.notes == (
        "optimizer.learning_rate=3e-4 also replaces sft's 2.0e-4; "
        "use pretrain.optimizer.learning_rate to limit it",
    )


def test_an_override_with_a_stage_wins_whatever_the_order(recipe):
    loaded = load_recipe(recipe, ["sft.optimizer.learning_rate=1e-4", "optimizer.learning_rate=3"])
    assert stages_of(loaded)["sft"].optimizer.learning_rate == 1e-4
    assert stages_of(loaded)["pretrain"].optimizer.learning_rate == 3


def test_the_last_of_two_overrides_of_one_setting_wins(recipe):
    assert load_recipe(recipe, ["seed=3", "seed=4"]).recipe.seed == 4


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("training.max_steps=2k", "training.max_steps", 2000),
        ("training.max_tokens=2.5B", "training.max_tokens", 2_500_000_000),
        ("optimizer.betas.1=0.98", "optimizer.betas", (0.9, 0.98)),
        ("optimizer.betas=[0.8, 0.9]", "optimizer.betas", (0.8, 0.9)),
        ("optimizer={learning_rate: 5e-4}", "optimizer.learning_rate", 5e-4),
        ("logging.wandb.project=probe", "logging.wandb.project", "probe"),
        ("logging.wandb.project=2024", "logging.wandb.project", "2024"),
        ("parallelism.data_parallel_shard=2", "parallelism.data_parallel_shard", 2),
        ("parallelism.data_parallel_shard=auto", "parallelism.data_parallel_shard", "auto"),
        ("stages.pretrain.training.precision=fp64", "training.precision", "fp64"),
        ("checkpoint.async_save=false", "checkpoint.async_save", False),
    ],
)
def test_values_take_the_type_of_the_schema(override, path, value, recipe):
    found = stages_of(load_recipe(recipe, [override]))["pretrain"]
    for name in path.split("."):
        found = getattr(found, name)
    assert found == value
    assert type(found) is type(value)


def test_null_switches_a_block_off(recipe):
    recipe.write_text(TINY.replace("defaults:\n", "defaults:\n  logging: {wandb: {project: p}}\n"))
    assert stages_of(load_recipe(recipe))["sft"].logging.wandb.project == "p"
    assert stages_of(load_recipe(recipe, ["logging.wandb=null"]))["sft"].logging.wandb is None
    stages = stages_of(load_recipe(recipe, ["sft.logging.wandb=null"]))
    assert stages["pretrain"].logging.wandb is not None


def test_texts_of_lists_need_no_quotes(recipe):
    loaded = load_recipe(recipe, ["data.source={kind: files, paths: [1.txt, 7]}"])
    assert stages_of(loaded)["prepare"].data.source.paths == ("1.txt", "7")


def test_settings_of_the_whole_recipe(recipe):
    found = load_recipe(
        recipe,
        ["name=2024", "seed=7", "launch.backend=slurm", "launch.nodes=4", "launch.time_limit=24h"],
    ).recipe
    assert (found.name, found.seed) == ("2024", 7)
    assert (found.launch.nodes, found.launch.time_limit) == (4, 86400)


def test_limits_of_the_watchdog_are_named_by_phase(recipe):
    found = load_recipe(recipe, ["launch.watchdog.limits.update=5s"]).recipe
    assert found.launch.watchdog.limits == {"update": 5}
    assert '"limits_s": {"update": 5' in found.launch.watchdog.to_text()
    with pytest.raises(RecipeErrors, match="did you mean 'forward_backward'"):
        load_recipe(recipe, ["launch.watchdog.limits.forward=5s"])
    for below in ("0s", "-3s", "200ms"):
        with pytest.raises(RecipeErrors, match=r"watchdog\.limits\.update"):
            load_recipe(recipe, [f"launch.watchdog.limits.update={below}"])
    with pytest.raises(RecipeErrors, match=r"limits\.update 3s is below floor 4s, before which"):
        load_recipe(recipe, ["launch.watchdog.limits.update=3s"])


def test_a_value_from_a_file_keeps_the_places_of_its_mistakes(recipe, tmp_path):
    other = tmp_path / "data.yaml"
    other.write_text("source: {kind: files, paths: [a.txt]}\nmin_characters: 7\n")
    data = stages_of(load_recipe(recipe, [f"data=@{other}"]))["prepare"].data
    assert (data.source.paths, data.min_characters) == (("a.txt",), 7)
    other.write_text("source: {kind: files, path: [a.txt]}\n")
    with pytest.raises(RecipeErrors, match=r"data.yaml:1:23: unknown key 'path'"):
        load_recipe(recipe, [f"data=@{other}"])


def test_a_list_entry_is_only_replaced_where_it_is(recipe):
    with pytest.raises(RecipeErrors, match="expected a number"):
        load_recipe(recipe, ["optimizer.betas.0=big"])


COUNTS = st.integers(min_value=2048, max_value=10**6)
"""Not below a few steps of the tiny recipe."""


@settings(max_examples=40, deadline=None)
@given(number=COUNTS, unit=st.sampled_from(["", "k", "M", "B"]))
def test_any_count_with_its_unit_is_read_as_written(number, unit, tmp_path_factory):
    path = tmp_path_factory.mktemp("count") / "tiny.yaml"
    path.write_text(TINY)
    size = {"": 1, "k": 10**3, "M": 10**6, "B": 10**9}[unit]
    loaded = load_recipe(path, [f"pretrain.training.max_tokens={number}{unit}"])
    training = stages_of(loaded)["pretrain"].training
    assert training.max_tokens == number * size
    assert training.max_steps is None


@settings(max_examples=40, deadline=None)
@given(rate=st.floats(min_value=1e-12, max_value=1e6, allow_nan=False))
def test_any_number_is_read_exactly(rate, tmp_path_factory):
    path = tmp_path_factory.mktemp("rate") / "tiny.yaml"
    path.write_text(TINY)
    loaded = load_recipe(path, [f"optimizer.learning_rate={rate!r}"])
    assert stages_of(loaded)["sft"].optimizer.learning_rate == rate
