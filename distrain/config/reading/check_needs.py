"""Whether the stages have what they need from each other. Pure."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from graphlib import CycleError

from distrain.config.data import PairsConfig
from distrain.config.layout import order_of
from distrain.config.models import ModelConfig
from distrain.config.reading.sections import Path
from distrain.config.reading.stage_parts import Finding, StageParts
from distrain.config.reading.suggest import nearest
from distrain.config.training import SftDataConfig

Stages = Mapping[str, StageParts]

NEEDS_OF_KIND: dict[str, tuple[str, ...]] = {
    # Kind -> the kinds of the one stage that it needs.
    "pretrain": ("prepare",),
    "sft": ("pretrain",),
    "evaluate": ("pretrain", "sft"),
    "export": ("pretrain", "sft"),
}


def check_needs(stages: Stages, left_out: Collection[str]) -> Iterator[Finding]:
    """Check that needs name stages of the right kinds, without a circle."""
    unknown = [
        Finding(stage.name, _need_path(stage, name), _unknown_need(stage, name, stages, left_out))
        for stage in stages.values()
        for name in stage.needs or ()
        if name not in stages or name == stage.name
    ]
    yield from unknown
    circle = () if unknown else _circle(stages)
    if circle:
        first = min(circle[:-1], key=list(stages).index)
        message = f"the stages need each other in a circle: {' -> '.join(circle)}; remove one need"
        yield Finding(first, ("needs",), message)
    for stage in stages.values():
        if stage.name not in circle:
            yield from _check_kinds(stage, stages)
            yield from _check_test_split(stage, stages)


def _circle(stages: Stages) -> tuple[str, ...]:
    """Return stages that need each other, the first one again at the end; else nothing."""
    try:
        order_of({name: stage.needs or () for name, stage in stages.items()})
    except CycleError as error:
        return tuple(reversed(error.args[1]))
    return ()


def _need_path(stage: StageParts, name: str) -> Path:
    return ("needs", (stage.needs or ()).index(name))


def _unknown_need(stage: StageParts, name: str, stages: Stages, left_out: Collection[str]) -> str:
    if name == stage.name:
        return f"stage '{name}' needs itself; name the stage that it starts from"
    if name in left_out:
        return f"stage '{stage.name}' needs '{name}', which is left out; leave it out as well"
    others = [other for other in stages if other != stage.name]
    near = nearest(name, others)
    hint = f"did you mean '{near}'?" if near else f"stages: {', '.join(others) or 'none'}"
    return f"needs: no stage is called '{name}'; {hint}"


def _check_kinds(stage: StageParts, stages: Stages) -> Iterator[Finding]:
    if stage.needs is None:
        return
    allowed = NEEDS_OF_KIND.get(stage.kind, ())
    fitting = [name for name, other in stages.items() if other.kind in allowed]
    known = [name for name in stage.needs if name in stages and name != stage.name]
    for name in known:
        kind = stages[name].kind
        if kind not in allowed:
            message = f"'{name}' is of kind {kind}; {_expected_needs(stage.kind, fitting)}"
            yield Finding(stage.name, _need_path(stage, name), message)
    wanted = [name for name in known if stages[name].kind in allowed]
    if len(wanted) > 1:
        message = f"found {len(wanted)} needs; {_expected_needs(stage.kind, fitting)}"
        yield Finding(stage.name, ("needs",), message)
    if not stage.needs and allowed and not _brings_its_own(stage):
        message = f"stage '{stage.name}' needs nothing; {_expected_needs(stage.kind, fitting)}"
        yield Finding(stage.name, ("needs",), message, at_key=True)


def _check_test_split(stage: StageParts, stages: Stages) -> Iterator[Finding]:
    """Check that the model to evaluate was trained on data that has a test split."""
    for name in stage.needs or () if stage.kind == "evaluate" else ():
        model = stages[name].get("model", ModelConfig) if name in stages else None
        if model is not None and model.from_pretrained is not None:
            message = (
                f"'{name}' starts from a folder, so no prepare stage holds a test split back; "
                "remove this stage"
            )
            yield Finding(stage.name, ("needs",), message)


def _expected_needs(kind: str, fitting: Sequence[str]) -> str:
    allowed = NEEDS_OF_KIND.get(kind, ())
    if not allowed:
        return f"a {kind} stage needs no other, remove it"
    candidates = f", such as needs: {fitting[-1]}" if fitting else ""
    own = "; or set model.from_pretrained and data.path" if kind == "sft" else ""
    return f"{kind} needs exactly one {' or '.join(allowed)} stage{candidates}{own}"


def _brings_its_own(stage: StageParts) -> bool:
    """Whether an sft stage starts from the user's folder (or cannot be judged)."""
    if stage.kind != "sft":
        return False
    model = stage.get("model", ModelConfig)
    return model is None or model.from_pretrained is not None


def check_source_of_model(stage: StageParts, stages: Stages) -> Iterator[Finding]:
    """Check where model and pairs of an sft stage come from."""
    model = stage.get("model", ModelConfig)
    if stage.kind == "pretrain" and model is not None and model.from_pretrained is not None:
        message = (
            "a pretrain stage starts from random weights; remove model.from_pretrained, "
            "or use kind: sft"
        )
        yield Finding(stage.name, ("model", "from_pretrained"), message, at_key=True)
    if stage.kind != "sft" or stage.needs is None:
        return
    data = stage.get("data", SftDataConfig)
    parents = [stages[name] for name in stage.needs if name in stages]
    pretrains = [parent for parent in parents if parent.kind == "pretrain"]
    if model is not None and model.from_pretrained is not None:
        if pretrains:
            message = (
                f"the model comes from '{pretrains[0].name}' or from this folder, not both; "
                "remove one"
            )
            yield Finding(stage.name, ("model", "from_pretrained"), message, at_key=True)
        elif data is not None and data.path is None:
            message = (
                "with model.from_pretrained the pairs come from a file; "
                "set data.path to a JSONL file with prompt and answer"
            )
            yield Finding(stage.name, ("data",), message, at_key=True)
        return
    for parent in pretrains:
        yield from _check_same_sizes(stage, model, parent)
        if data is not None and data.path is None:
            yield from _check_pairs(stage, parent, stages)


def _check_same_sizes(
    stage: StageParts, model: ModelConfig | None, parent: StageParts
) -> Iterator[Finding]:
    base = parent.get("model", ModelConfig)
    if model is None or base is None:
        return
    for name in type(base).model_fields:
        # Of another family, the name alone is said to differ: it comes first.
        own, theirs = getattr(model, name, None), getattr(base, name)
        if name in base.size_fields() and own != theirs:
            message = (
                f"model.{name}: found {own}, but '{parent.name}' trains {theirs}; remove this one"
            )
            yield Finding(stage.name, ("model", name), message)
            if name == "name":
                return


def _check_pairs(stage: StageParts, parent: StageParts, stages: Stages) -> Iterator[Finding]:
    for name in parent.needs or ():
        prepare = stages.get(name)
        pairs = prepare.get("pairs", PairsConfig) if prepare is not None else None
        if pairs is not None and pairs.kind == "none":
            message = (
                f"stage '{stage.name}' has no pairs: '{name}' makes none; set {name}.pairs.kind to "
                "docstrings, or data.path to a JSONL file"
            )
            yield Finding(stage.name, ("data",), message, at_key=True)
