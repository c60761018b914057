"""The kept set of seeded mistakes: each is caught at its place, with its remedy."""

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distrain.config.reading.load import load_recipe, load_site
from distrain.config.reading.problems import Problem, RecipeErrors
from tests.distrain.config.conftest import TINY, stages_of

MISTAKES = Path(__file__).parents[3] / "recipes" / "mistakes"
FILES = sorted(MISTAKES.glob("*.yaml"))


def expectations(text):
    """Read the header lines ``# expect [FILE:]LINE:COLUMN PHRASE OF THE REMEDY``."""
    return [
        (match[1], match[2]) for match in re.finditer(r"^# expect (\S+) (.*)$", text, re.MULTILINE)
    ]


def test_the_set_holds_at_least_forty_mistakes_and_three_in_one_file():
    assert len(FILES) >= 40
    assert len(expectations((MISTAKES / "three_at_once.yaml").read_text())) == 3


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_each_mistake_is_shown_at_its_place_with_its_remedy(file):
    expected = expectations(file.read_text())
    with pytest.raises(RecipeErrors) as caught:
        load_recipe(file)
    found = caught.value.problems
    assert len(found) == len(expected)
    for problem, (place, phrase) in zip(found, expected, strict=True):
        name = place if place.count(":") == 2 else f"{file.name}:{place}"
        assert str(problem.place) == str(MISTAKES / name)
        assert phrase in problem.message


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_caret_line_underlines_what_stands_at_the_column(file):
    with pytest.raises(RecipeErrors) as caught:
        load_recipe(file)
    for problem in caught.value.problems:
        _, source, carets = str(problem).split("\n")
        start, end = carets.index("^"), len(carets)
        line = Path(problem.place.file).read_text().splitlines()[problem.place.line - 1]
        column = problem.place.column - 1
        shown = line[column : column + end - start].replace("\t", " ")
        assert source[start:end] == shown or not shown.strip()


def test_the_text_has_the_documented_form(tmp_path):
    recipe = tmp_path / "pretrain_lora.yaml"
    text = (MISTAKES / "typo_in_key.yaml").read_text()
    recipe.write_text(text)
    with pytest.raises(RecipeErrors) as caught:
        load_recipe(recipe)
    assert str(caught.value) == (
        f"error: {recipe}:9:32: unknown key 'warmup_step' in lr_scheduler; "
        "did you mean 'warmup_steps'?\n"
        "    lr_scheduler: {name: cosine, warmup_step: 2, min_lr_ratio: 0.1}\n"
        "                                 ^^^^^^^^^^^\n"
        "1 error. Nothing was started."
    )


OVERRIDE_MISTAKES = [
    ("optimizer.learing_rate=1e-3", "did you mean 'learning_rate'?"),
    ("pretrain.optimizer.learing_rate=1e-3", "did you mean 'learning_rate'?"),
    ("optimiser.learning_rate=1e-3", "did you mean 'optimizer'?"),
    ("pretrian.optimizer.learning_rate=1e-3", "did you mean 'pretrain'?"),
    ("lr=1e-3", "'lr' is torch's name; here it is optimizer.learning_rate"),
    ("learning_rate=1e-3", "it belongs elsewhere: optimizer.learning_rate"),
    ("optimizer.learning_rate=fast", "found the text 'fast'; expected a number"),
    ("optimizer.learning_rate=-1", "expected a number greater than 0"),
    ("optimizer.learning_rate", "expected key=value"),
    ("optimizer.learning_rate=", "the value is missing"),
    ("optimizer..learning_rate=1", "expected key=value"),
    ("optimizer.betas.2=0.5", "'optimizer.betas' has 2 entries; expected an index from 0 to 1"),
    ("optimizer.learning_rate.0=0.5", "is not a list"),
    ("launch.nods=2", "did you mean 'nodes'?"),
    ("launch.nodes=2", "set launch.backend to slurm or torchrun"),
    ("launch.time_limit=24", "write one with its unit"),
    ("training.max_steps=many", "write a number such as"),
    ("training.sequence_length=4096", "expected at most model.max_position_embeddings, 2048"),
    ("lr_scheduler.warmup_steps=500", "expected at most the 10 steps of the run"),
    ("sft.pairs.kind=none", "this stage has no section 'pairs'; it is of prepare stages"),
    ("stages.stf=skip", "no stage is called 'stf'; did you mean 'sft'?"),
    ("stages.sft=drop", "stages.sft=skip to leave it out"),
    ("stages.sft=skip", "stage 'evaluate' needs 'sft', which is left out"),
    ("defaults.optimizer.learning_rate=1e-3", "write section.key=value"),
    ("data=@nowhere.yaml", "the file 'nowhere.yaml' does not exist"),
    ("+seed=3", "did you mean 'seed'?"),
    ("needs=prepare", "'needs' belongs to one stage; write stage.needs=value"),
    ("pretrain.kind=sft", "a stage's kind cannot be overridden"),
    ("pretrain.training.max_steps=null", "found none of them"),
    ("pretrain.model.hidden_size=65", "set hidden_size to 64 or 68"),
    ("optimizer=null", "expected a mapping"),
    ("name=a/b", "with a letter or digit first"),
    ("optimizer.learning_rate=2,5e-4", "write 2.5e-4"),
    ("pretrain.optimizer={learning_rate:1e-3}", "write learning_rate: 1e-3"),
    ("training.precision=fp16", "there is no fp16, which needs loss scaling; write bf16"),
    ("training.precision=bfloat16", "write bf16"),
    ("parallelism.tensor_parallel_degree=2", "torchtitan's name; here it is parallelism.tensor"),
    ("checkpoint.save_strategy=steps", "every checkpoint.save_steps steps"),
    ("model.hidden_act=gelu", "a Llama's activation is SiLU"),
    ("logging.wandb=true", "write {} for its defaults"),
    ("logging.wandb=false", "write null to leave it out"),
    ("optimizer.max_grad_norm=0", "null switches it off"),
    ("lora=false", "write null to leave it out"),
    ("lora.target_modules=[lm_head]", "expected some of down_proj"),
    ("lora.target_modules=[layers.0.q_proj]", "did you mean 'q_proj'?"),
    ("pretrain.training.frozen_parameters=['*embed_token.*']", "as in *embed_tokens.*"),
    ("pretrain.training.frozen_parameters=['*']", "that leave nothing to train"),
    ("sft.training.frozen_parameters=['*embed_tokens*']", "found beside lora"),
    ("lora.target_modules=mlp", "matches the whole name of no linear layer of llama"),
    ("lora.target_modules='mlp.('", "is no regular expression"),
    ("lora.rank_pattern={q_prj: 4}", "matches the name of no adapted layer"),
    ("lora.alpha_pattern={attn.q_proj: 4}", "did you mean 'q_proj'?"),
    ("lora.modules_to_save=[embed_token]", "did you mean 'embed_tokens'?"),
]


@pytest.mark.parametrize(("override", "phrase"), OVERRIDE_MISTAKES)
def test_a_mistake_in_an_override_names_the_override(override, phrase, recipe):
    with pytest.raises(RecipeErrors) as caught:
        load_recipe(recipe, [override])
    shown = str(caught.value)
    assert phrase in shown
    if "skip" not in override:
        assert shown.startswith(f"error: override '{override}': ")
    assert len(caught.value.problems) == 1


@pytest.mark.parametrize(
    "typed", [["data.mixture={web:", "0.7,", "code:", "0.3}"], ["data.mixture={web:", "1}"]]
)
def test_a_value_that_the_shell_cut_is_one_mistake(typed, recipe):
    with pytest.raises(RecipeErrors) as caught:
        load_recipe(recipe, ["seed=3", *typed, "name=other"])
    assert str(caught.value).splitlines() == [
        f"error: override '{' '.join(typed)}': the shell cut it at its spaces; quote it: "
        f"'{' '.join(typed)}'",
        "1 error. Nothing was started.",
    ]


def test_a_bracket_that_is_never_closed_hides_no_other_override(recipe):
    with pytest.raises(RecipeErrors) as caught:
        load_recipe(recipe, ["data.mixture={web:", "launch.nods=2"])
    assert [str(problem.place) for problem in caught.value.problems] == [
        "override 'data.mixture={web:'",
        "override 'launch.nods=2'",
    ]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("name=x\n", r"override 'name=x\n': character 7 is '\n'; remove it"),
        ("na\nme=x", r"override 'na\nme=x': character 3 is '\n'; remove it"),
        (
            "launch.site=a\x1b[1m",
            r"override 'launch.site=a\x1b[1m': character 14 is '\x1b'; remove it",
        ),
        ('name="x\\n"', r"name: found the text 'x\n'; expected letters, digits"),
    ],
)
def test_a_control_character_in_an_override_is_named_by_its_place(override, message, recipe):
    with pytest.raises(RecipeErrors) as caught:
        load_recipe(recipe, [override])
    assert message in str(caught.value)


def test_a_mapping_may_be_typed_over_several_lines(recipe):
    loaded = load_recipe(recipe, ["pretrain.data.mixture={\n main: 1,\n}\n"])
    assert stages_of(loaded)["pretrain"].data.mixture == {"main": 1.0}


def test_mistakes_of_file_and_overrides_are_shown_together():
    with pytest.raises(RecipeErrors) as caught:
        load_recipe(MISTAKES / "typo_in_key.yaml", ["launch.nods=2", "seed=x"])
    places = [str(problem.place) for problem in caught.value.problems]
    assert places == [
        f"{MISTAKES / 'typo_in_key.yaml'}:9:32",
        "override 'launch.nods=2'",
        "override 'seed=x'",
    ]


@pytest.mark.parametrize(
    ("text", "place", "phrase"),
    [
        ("acount: mine\n", "1:1", "did you mean 'account'?"),
        ("partition: gpu\ntime_limit: 24\n", "2:13", "write one with its unit"),
        ("env: {OMP_NUM_THREADS: 8}\n", "1:24", 'write it in quotes: "8"'),
        ("setup: module load cuda\n", "1:8", "write [module load cuda]"),
        ("gpus_per_node: -1\n", "1:16", "expected a number of at least 0"),
        ("python: &a [*a]\n", "1:9", "an alias inside the value"),
        (
            'account: "me\\n#SBATCH --exclusive"\n',
            "1:10",
            "'me\\n#SBATCH --exclusive'; expected one line, without control characters",
        ),
        ('partition: "gpu\\n"\n', "1:12", "partition: found the text 'gpu\\n'; expected one line"),
        ('qos: "a\\tb"\n', "1:6", "qos: found the text 'a\\tb'; expected one line"),
        (
            "setup:\n  - one\n  - |\n    two\n",
            "3:5",
            "setup.1: found the text 'two\\n'; expected one line",
        ),
        ('env: {A: "b\\n"}\n', "1:10", "env.A: found the text 'b\\n'; expected one line"),
        (
            'env: {"A\\n": b}\n',
            "1:7",
            "env: found the name 'A\\n'; expected a name of letters, digits and '_'",
        ),
        (
            "env: {1A: b}\n",
            "1:7",
            "found the name '1A'; expected a name of letters, digits and '_', with no digit first",
        ),
        (
            'python: "/usr/bin/python\\r"\n',
            "1:9",
            "python: found the text '/usr/bin/python\\r'; expected one line",
        ),
        ("", "1:1", "the file is empty"),
        ("- partition\n", "1:1", "the site file: found a list of 1; expected a mapping"),
    ],
)
def test_a_site_file_is_checked_with_the_same_care(text, place, phrase, tmp_path):
    site = tmp_path / "site.yaml"
    site.write_text(text)
    with pytest.raises(RecipeErrors) as caught:
        load_site(site)
    assert f"error: {site}:{place}: " in str(caught.value)
    assert phrase in str(caught.value)


FRAGMENTS = [
    "null",
    "[]",
    "{a: 1}",
    "-1",
    "x",
    "*a",
    "&a",
    "!t",
    "<<: 1",
    ": ",
    "- ",
    "\t",
    '"',
    "? a",
    "kind: [x]",
    "needs: {a: 1}",
    "extends: [1]",
    "stages:",
    "1: 2",
    "\x00",
]


@settings(max_examples=150, deadline=None)
@given(
    line=st.integers(0, TINY.count("\n") - 1),
    fragment=st.sampled_from(FRAGMENTS),
    column=st.integers(0, 60),
    keep=st.booleans(),
)
def test_no_damage_to_one_line_is_a_crash(line, fragment, column, keep, tmp_path_factory):
    lines = TINY.split("\n")
    old = lines[line]
    lines[line] = old[:column] + fragment + (old[column:] if keep else "")
    path = tmp_path_factory.mktemp("damaged") / "tiny.yaml"
    path.write_text("\n".join(lines))
    found: tuple[Problem, ...] = ()
    try:
        load_recipe(path)
    except RecipeErrors as error:
        found = error.problems
    assert all(problem.place.line and problem.message for problem in found)
