import pytest

from distrain.config.reading.load import dump_resolved, load_recipe, read_resolved
from distrain.config.recipe import PrepareStage
from distrain.errors import RecipeError
from tests.distrain.config.conftest import TINY

CURATION = """\
      curation:
        pii: {phone_numbers: true}
        filters:
          gopher_quality: {}
          gopher_repetition: {max_top_2gram_fraction: 0.25}
          language: {keep: [en, de]}
"""


@pytest.fixture
def curated(tmp_path):
    file = tmp_path / "curated.yaml"
    data = "    data:\n      source: {kind: python_stdlib}\n" + CURATION
    file.write_text(
        TINY.replace("    data: {source: {kind: python_stdlib}, min_characters: 10}\n", data)
    )
    return file


def curation_of(recipe):
    stage = recipe.stages["prepare"]
    assert isinstance(stage, PrepareStage)
    return stage.data.curation


def test_filters_are_on_when_named_and_the_resolved_recipe_reads_back_the_same(curated, tmp_path):
    recipe = load_recipe(curated).recipe
    filters = curation_of(recipe).filters
    assert filters.gopher_quality
    assert filters.gopher_repetition
    assert filters.language
    assert (filters.gopher_quality.min_words, filters.c4, filters.fineweb) == (50, None, None)
    assert filters.gopher_repetition.max_top_2gram_fraction == 0.25
    assert filters.language.keep == ("en", "de")
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(dump_resolved(recipe))
    assert read_resolved(resolved) == recipe


@pytest.mark.parametrize(
    ("good", "bad"),
    [("top_2gram", "top_5gram"), ("0.25", "1.25"), ("[en, de]", "[]")],
)
def test_impossible_limits_are_refused_with_their_place(curated, good, bad):
    curated.write_text(curated.read_text().replace(good, bad))
    with pytest.raises(RecipeError, match=r"data\.curation\.filters"):
        load_recipe(curated)


def test_by_default_a_document_is_only_normalized(recipe):
    curation = curation_of(load_recipe(recipe).recipe)
    assert curation.normalize
    assert not curation.html
    assert curation.pii is None
    assert set(curation.filters.model_dump().values()) == {None}
