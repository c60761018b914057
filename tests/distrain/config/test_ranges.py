# ruff: noqa: E501  (a table: an override and the message that it gets)
"""Numbers that cannot be meant are refused by the schema, wherever they are written."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, get_args

import pytest
from pydantic import Field, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from distrain.config.chats import DAY
from distrain.config.curation import WORD
from distrain.config.launch import ENDPOINT, ONE_LINE, VARIABLE_NAME, SiteConfig
from distrain.config.reading.json_schema import every_section
from distrain.config.reading.load import load_recipe
from distrain.config.reading.problems import RecipeErrors
from distrain.config.recipe import PATTERNS, RUN_NAME, RecipeHead
from distrain.config.section import Section

SECTIONS: list[type[Section]] = [RecipeHead, *every_section(), SiteConfig]
NUMBERS = (-(10**30), -1e30)
IMPOSSIBLE = [form for x in NUMBERS for form in (x, (x, x), (x,), {"a": x})]
FREE_MAPPINGS = {"storage_options", "config", "template_arguments"}
"""What fsspec and templates take is not ours to judge; a family's settings are by its table."""


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.__name__)
def test_no_field_takes_a_number_far_below_zero(section):
    for name in section.model_fields.keys() - FREE_MAPPINGS:
        for value in IMPOSSIBLE:
            with pytest.raises(ValidationError) as caught:
                section.model_validate({name: value}, strict=True)
            assert any(error["loc"][:1] == (name,) for error in caught.value.errors()), (
                name,
                value,
            )


OUT_OF_RANGE = [
    ("seed=9223372036854775808", "found 9223372036854775808; expected a number less than 2^63"),
    ("optimizer.betas=[0.9,1.5]", "optimizer.betas.1: found 1.5; expected a number less than 1"),
    ("optimizer.betas=[-0.1,0.9]", "betas.0: found -0.1; expected a number of at least 0"),
    ("optimizer.betas.1=1", "optimizer.betas.1: found 1; expected a number less than 1"),
    ("optimizer.eps=1", "optimizer.eps: found 1; expected a number less than 1"),
    ("pretrain.model.rms_norm_eps=1.0", "expected a number less than 1"),
    ("pretrain.model.initializer_range=2.0", "expected a number of at most 1"),
    ("lora.dropout=1.0", "lora.dropout: found 1.0; expected a number less than 1"),
    ("lora.target_modules=[]", "lora.target_modules: found an empty list; expected at least 1"),
    ("lr_scheduler.min_lr_ratio=1.5", "expected a number of at most 1"),
    ("prepare.data.validation_fraction=0.5", "expected a number less than 0.5"),
    ("sft.data.validation_fraction=0", "expected a number greater than 0"),
    ("seed=9223372036854775808", "seed: found 9223372036854775808; expected a number less than"),
    ("launch.rendezvous=node01:70000", "port 70000; choose one from 1 to 65535"),
    ("data.labels={min_label_fraction: 0.6, max_label_fraction: 0.5}", "min_label_fraction 0.6 is above max_label_fraction 0.5"),
    ("data.curation.filters.gopher_quality={min_words: 9, max_words: 8}", "min_words 9 is above max_words 8"),
    ("data.curation.filters.gopher_quality={min_mean_word_length: 11}", "is above max_mean_word_length 10"),
    ("data.curation.filters.gopher_quality={stop_words: [der]}", "min_stop_words 2 of 1 stop words drops every document"),
    ("data.source={kind: tokens, format: npy, paths: [x], dtype: uint16, eos_id: 100257}", "eos_id 100257 is no uint16, whose largest id is 65535"),
]  # fmt: skip


@pytest.mark.parametrize(("override", "phrase"), OUT_OF_RANGE)
def test_a_value_out_of_range_is_named_with_its_limit(override, phrase, recipe):
    with pytest.raises(RecipeErrors) as caught:
        load_recipe(recipe, [override])
    assert phrase in str(caught.value)
    assert len(caught.value.problems) == 1


@pytest.mark.parametrize(
    "override",
    [
        "optimizer.betas=[0.0,0.999]",
        "lora.target_modules=[q_proj,v_proj]",
        "seed=9223372036854775807",
        "launch.rendezvous=node01:65535",
        "data.labels={min_label_fraction: 0.5, max_label_fraction: 0.5}",
        "data.curation.filters.gopher_quality={min_stop_words: 0, stop_words: []}",
    ],
)
def test_values_at_the_limits_are_taken(override, recipe):
    assert load_recipe(recipe, [override])


@pytest.mark.parametrize("end", ["\n", "\r", "\n\n"])
def test_no_pattern_of_the_schema_takes_a_line_end_behind_what_it_wants(end):
    """``$`` of Python's own expressions would: it matches before the last line end."""
    for pattern, good in {
        RUN_NAME: "name",
        DAY: "2026-11-30",
        ENDPOINT: "node01:29500",
        ONE_LINE: "one line",
        VARIABLE_NAME: "NAME",
        WORD: "word",
    }.items():
        text = TypeAdapter(Annotated[str, Field(pattern=pattern)])
        assert text.validate_python(good) == good
        with pytest.raises(ValidationError):
            text.validate_python(good + end)


def test_every_pattern_has_words_and_is_tried_above():
    used = {
        item.pattern
        for section in SECTIONS
        for field in section.model_fields.values()
        for item in flat(field.annotation, field.metadata)
        if getattr(item, "pattern", None)
    }
    assert used == set(PATTERNS)


def flat(annotation: Any, metadata: Sequence[Any]) -> Iterator[Any]:
    for item in metadata:
        yield from item.metadata if isinstance(item, FieldInfo) else (item,)
    if hasattr(annotation, "__metadata__"):
        yield from flat(get_args(annotation)[0], annotation.__metadata__)
    else:
        for inner in get_args(annotation):
            yield from flat(inner, ())
