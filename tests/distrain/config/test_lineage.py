"""Which stages a stage is made of, in which order."""

from dataclasses import dataclass

import pytest

from distrain.config.lineage import Lineage, Link, lineage_of


@dataclass(frozen=True)
class Stage:
    kind: str
    needs: tuple[str, ...] | None = ()
    trains_all: bool = False


STAGES = {
    "prepare": Stage("prepare"),
    "clean": Stage("prepare"),
    "pretrain": Stage("pretrain", ("prepare",)),
    "anneal": Stage("pretrain", ("pretrain", "clean")),
    "longer": Stage("pretrain", ("pretrain",)),
    "again": Stage("pretrain", ("prepare", "longer")),
    "sft": Stage("sft", ("anneal",)),
    "sft2": Stage("sft", ("sft",)),
    "answers": Stage("sft", ("prepare", "sft2")),
    "deeper": Stage("pretrain", ("sft2",)),
    "own": Stage("sft"),
    "own2": Stage("sft", ("own",)),
    "evaluate": Stage("evaluate", ("sft2",)),
    "whole": Stage("sft", ("sft",), trains_all=True),
    "adapted": Stage("sft", ("whole",)),
}


def line(name):
    return " ".join(f"{link.stage}:{link.artefact}" for link in lineage_of(STAGES, name).links)


@pytest.mark.parametrize(
    ("name", "links"),
    [
        ("prepare", "prepare:data"),
        ("pretrain", "prepare:data pretrain:weights"),
        ("anneal", "prepare:data pretrain:weights clean:data anneal:weights"),
        ("again", "prepare:data pretrain:weights longer:weights again:weights"),
        (
            "evaluate",
            "prepare:data pretrain:weights clean:data anneal:weights sft:adapter sft2:adapter",
        ),
        ("own2", "own:adapter own2:adapter"),
        (
            "adapted",
            "prepare:data pretrain:weights clean:data anneal:weights sft:adapter whole:weights "
            "adapted:adapter",
        ),
    ],
)
def test_the_links_of_a_stage_lead_from_the_text_to_it(name, links):
    assert line(name) == links


def names(links):
    return [link.stage for link in links]


def test_a_whole_model_is_the_last_weights_and_the_adapters_after_them():
    assert names(lineage_of(STAGES, "evaluate").model) == ["anneal", "sft", "sft2"]
    assert names(lineage_of(STAGES, "longer").model) == ["longer"]
    assert names(lineage_of(STAGES, "deeper").model) == ["deeper"]
    assert names(lineage_of(STAGES, "own2").model) == ["own", "own2"]
    assert Lineage().model == ()


def test_a_stage_starts_from_all_that_is_before_it():
    assert lineage_of(STAGES, "anneal").start == lineage_of(STAGES, "pretrain")
    assert lineage_of(STAGES, "answers").start == lineage_of(STAGES, "sft2")
    assert lineage_of(STAGES, "pretrain").start == lineage_of(STAGES, "own").start == Lineage()


def test_what_is_read_is_the_nearest_prepare_stage():
    read = {"pretrain": "prepare", "anneal": "clean", "sft": "clean", "answers": "prepare"}
    assert {name: lineage_of(STAGES, name).data for name in read} == read
    assert lineage_of(STAGES, "own2").data is None
    assert lineage_of(STAGES, "sft2").up_to("pretrain").data == "prepare"


def test_documents_belong_to_the_last_stage_that_trained_every_parameter():
    assert lineage_of(STAGES, "evaluate").pretrained == lineage_of(STAGES, "anneal")
    assert lineage_of(STAGES, "own2").pretrained == Lineage()
    assert (lineage_of(STAGES, "evaluate").tuned, lineage_of(STAGES, "deeper").tuned) == (
        "sft2",
        None,
    )
    assert lineage_of(STAGES, "sft2").root == "pretrain"


def test_mistakes_end_the_line_and_nothing_else():
    stages = {
        "a": Stage("pretrain", ("b", "nobody")),
        "b": Stage("sft", ("a",)),
        "c": Stage("sft", None),
    }
    assert lineage_of(stages, "a").links == (Link("b", "adapter"), Link("a", "weights"))
    assert lineage_of(stages, "c").links == (Link("c", "adapter"),)


def test_fine_tuning_of_every_parameter_leaves_a_whole_model():
    assert names(lineage_of(STAGES, "whole").model) == ["whole"]
    assert lineage_of(STAGES, "whole").tuned is None
    assert names(lineage_of(STAGES, "adapted").model) == ["whole", "adapted"]
