"""What a training stage may start from, and what is said where it cannot."""

import pytest

from distrain.config.reading.load import load_recipe
from distrain.config.reading.problems import RecipeErrors
from tests.distrain.config.conftest import TINY, stages_of

CHAIN = TINY.replace(
    "  sft:\n    kind: sft\n    needs: pretrain\n",
    """\
  anneal:
    kind: pretrain
    needs: [prepare, pretrain]
    training: {max_steps: 4}
  sft:
    kind: sft
    needs: anneal
    training: {max_steps: 5}
  sft2:
    kind: sft
    needs: sft
""",
).replace("evaluate, needs: sft}", "evaluate, needs: sft2}")

CLEAN = """\
  clean:
    kind: prepare
    data: {source: {kind: python_stdlib}, min_characters: 500}
    tokenizer: {}
  anneal:
"""


def problems_of(recipe, text):
    recipe.write_text(text)
    with pytest.raises(RecipeErrors) as caught:
        load_recipe(recipe)
    return [
        (text.splitlines()[problem.place.line - 1].strip(), problem.message)
        for problem in caught.value.problems
    ]


def changed(*pairs, text=CHAIN):
    for found, replaced in pairs:
        assert found in text, found
        text = text.replace(found, replaced)
    return text


def test_stages_of_a_kind_follow_each_other_with_the_sizes_of_the_first(recipe):
    recipe.write_text(CHAIN)
    stages = stages_of(load_recipe(recipe))
    for name in ("anneal", "sft", "sft2"):
        assert (stages[name].model.hidden_size, stages[name].model.dropout) == (64, 0.0), name
    assert stages["sft2"].needs == ("sft",)


def test_a_stage_that_starts_from_a_model_reads_what_that_has_read(recipe):
    recipe.write_text(changed(("needs: [prepare, pretrain]", "needs: pretrain")))
    load_recipe(recipe)
    wrong = changed(
        ("needs: [prepare, pretrain]", "needs: pretrain\n    data: {mixture: {web: 1}}")
    )
    ((_, message),) = problems_of(recipe, wrong)
    assert message.startswith("data.mixture: no source of 'prepare' is called 'web'")


@pytest.mark.parametrize(
    ("found", "replaced", "line", "message"),
    [
        (
            "needs: [prepare, pretrain]",
            "needs: [prepare, sft2]",
            "needs: [prepare, sft2]",
            "the stages need each other in a circle: anneal -> sft2 -> sft -> anneal; "
            "remove one need",
        ),
        (
            "needs: sft\n",
            "needs: [anneal, sft]\n",
            "needs: [anneal, sft]",
            "found 2 models to start from, anneal and sft; a sft stage starts from one; "
            "remove the others",
        ),
        (
            "needs: [prepare, pretrain]",
            "needs: [prepare, pretrain, sft3]",
            "needs: [prepare, pretrain, sft3]",
            "needs: no stage is called 'sft3'; did you mean 'sft'?",
        ),
        (
            "needs: sft\n",
            "needs: prepare\n",
            "needs: prepare",
            "'prepare' is of kind prepare; sft needs exactly one pretrain, sft or "
            "preference stage, such as "
            "needs: sft; or set model.from_pretrained and data.path",
        ),
        (
            "needs: [prepare, pretrain]",
            "needs: [prepare, pretrain]\n    model: {hidden_size: 128}",
            "model: {hidden_size: 128}",
            "model.hidden_size: found 128, but 'pretrain' trains 64; remove this one",
        ),
        (
            "needs: [prepare, pretrain]",
            "needs: [prepare, pretrain]\n    model: {from_pretrained: mine}",
            "model: {from_pretrained: mine}",
            "the model comes from 'pretrain' or from this folder, not both; remove one",
        ),
        (
            "needs: sft2}",
            "needs: [sft, sft2]}",
            "evaluate: {kind: evaluate, needs: [sft, sft2]}",
            "found 2 needs; evaluate needs exactly one pretrain, sft or preference stage, "
            "such as needs: sft2",
        ),
    ],
)
def test_what_a_chain_cannot_be_is_said_at_its_place(found, replaced, line, message, recipe):
    assert problems_of(recipe, changed((found, replaced)))[0] == (line, message)


def test_sizes_that_differ_are_said_once_where_they_are_written(recipe):
    text = changed(("needs: anneal", "needs: anneal\n    model: {num_hidden_layers: 3}"))
    assert [line for line, _ in problems_of(recipe, text)] == ["model: {num_hidden_layers: 3}"]


def test_other_data_must_come_with_the_tokenizer_of_the_model(recipe):
    other = changed(
        ("  anneal:\n", CLEAN), ("needs: [prepare, pretrain]", "needs: [clean, pretrain]")
    )
    assert ("needs: [clean, pretrain]", "'clean' trains a tokenizer of its own, but the model was "
            "trained with that of 'prepare'; set clean.tokenizer.path to the tokenizer.json of "
            "'prepare'") in problems_of(recipe, other)  # fmt: skip
    recipe.write_text(other.replace("tokenizer: {}", "tokenizer: {path: t.json}\n    pairs: "
                                    "{kind: docstrings}"))  # fmt: skip
    load_recipe(recipe)  # whose file it is shows where it lies


def test_every_stage_may_start_from_a_folder(recipe):
    text = changed(
        ("model: {hidden_size: 64, num_attention_heads: 2,", "model: {from_pretrained: mine,"),
        ("    pairs: {", "    tokenizer: {path: mine/tokenizer.json}\n    pairs: {"),
        ("sequence_length: 64", "sequence_length: 4096"),
    )
    recipe.write_text(text)
    stages = stages_of(load_recipe(recipe))
    assert stages["pretrain"].model.from_pretrained == "mine"
    assert stages["sft2"].model.from_pretrained is None
    ((line, message),) = problems_of(
        recipe, text.replace("    tokenizer: {path: mine/tokenizer.json}\n", "")
    )[:1]
    assert line == "needs: prepare"
    assert message == (
        "'prepare' trains a tokenizer of its own, but the model was trained with that of mine; "
        "set prepare.tokenizer.path to mine/tokenizer.json"
    )


def test_a_chain_from_a_folder_alone_has_neither_pairs_nor_a_test_split(recipe):
    folder = "kind: sft\n    needs: anneal\n"
    own = "kind: sft\n    model: {from_pretrained: mine}\n    data: {path: pairs.jsonl}\n"
    assert [message for _, message in problems_of(recipe, changed((folder, own)))] == [
        "with model.from_pretrained the pairs come from a file; "
        "set data.path to a JSONL file with prompt and answer",
        "'sft' starts from a folder, so no prepare stage holds a test split back; "
        "remove this stage",
    ]
