"""Whether the stages have what they need from each other. Pure."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError

from distrain.config.chats import MeasuredDataConfig, SftDataConfig
from distrain.config.layout import order_of
from distrain.config.lineage import MODEL_KINDS, lineage_of, need_of
from distrain.config.models import ModelConfig
from distrain.config.reading.sections import Path
from distrain.config.reading.stage_parts import Finding, StageParts
from distrain.config.reading.suggest import nearest

Stages = Mapping[str, StageParts]


@dataclass(frozen=True, slots=True)
class Need:
    """What a kind of stage needs.

    Args:
        kinds: Of the one stage that it needs.
        beside: Of one more that it may need.
    """

    kinds: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()


NEED_OF_KIND: dict[str, Need] = {
    "pretrain": Need(("prepare",), MODEL_KINDS),
    "sft": Need(MODEL_KINDS, ("prepare",)),
    "preference": Need(MODEL_KINDS),
    "evaluate": Need(MODEL_KINDS),
    "export": Need(MODEL_KINDS),
}
NOTHING = Need()
NEED_OF_FOLDER: dict[str, Need] = {"evaluate": Need(("prepare",)), "export": NOTHING}
"""What those need instead that name the user's own model, and train nothing."""
OWN_MODEL: dict[str, str] = {
    "sft": "set model.from_pretrained and data.path",
    "preference": "set model.from_pretrained and data.path",
    "evaluate": "set model.from_pretrained and need a prepare stage",
    "export": "set model.from_pretrained",
}
"""Kind of a stage that may do without another's model -> how."""


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
    yield from _check_one_look(stages)


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
    need = _need_of(stage, stages)
    if need is None:
        return
    known = [name for name in stage.needs if name in stages and name != stage.name]
    main = [name for name in known if stages[name].kind in need.kinds]
    beside = [name for name in known if stages[name].kind in need.beside]
    for name in known:
        kind = stages[name].kind
        # Data alone are not enough, while a model to start from brings the data that it has read.
        is_enough = bool(main) or kind in MODEL_KINDS or _brings_its_own(stage)
        if name not in main and not (name in beside and is_enough):
            message = f"'{name}' is of kind {kind}; {_expected_needs(stage, stages)}"
            yield Finding(stage.name, _need_path(stage, name), message)
    models = [name for name in known if stages[name].kind in MODEL_KINDS]
    for group in (main, beside):
        if len(group) > 1 and group == models and stage.kind in MODEL_KINDS:
            message = (
                f"found {len(group)} models to start from, {' and '.join(group)}; a {stage.kind} "
                "stage starts from one; remove the others"
            )
            yield Finding(stage.name, ("needs",), message)
        elif len(group) > 1:
            message = f"found {len(group)} needs; {_expected_needs(stage, stages)}"
            yield Finding(stage.name, ("needs",), message)
    if not stage.needs and need.kinds and not _brings_its_own(stage):
        message = f"stage '{stage.name}' needs nothing; {_expected_needs(stage, stages)}"
        yield Finding(stage.name, ("needs",), message, at_key=True)


def _check_test_split(stage: StageParts, stages: Stages) -> Iterator[Finding]:
    """Check that the model to evaluate was trained on data that have a test split."""
    if stage.kind != "evaluate" or not stage.needs or _measures_own_data(stage):
        return
    if _asks_tasks(stage):
        return
    lineage = lineage_of(stages, stage.name)
    if lineage.root is None or lineage.data is not None:
        return
    model = stages[lineage.root].get("model", ModelConfig)
    if model is not None and model.from_pretrained is not None:
        last = stages[lineage.trained[-1].stage]
        if "data" not in last.sections:
            return  # its own mistakes hide what it holds back
        own = last.get("data", SftDataConfig)
        if own is not None and own.is_own and own.test_fraction:
            return
        remedy = "remove this stage"
        if own is not None and own.is_own:
            remedy += f", set its data or harness, or data.test_fraction of '{last.name}'"
        message = (
            f"'{lineage.root}' starts from a folder, so no prepare stage holds a test split back; "
            f"{remedy}"
        )
        yield Finding(stage.name, ("needs",), message)


def _check_one_look(stages: Stages) -> Iterator[Finding]:
    """Check that one stage opens the test split; any other would be refused where it runs."""
    opening = [stage.name for stage in stages.values() if _opens_test_split(stage, stages)]
    for name in opening[1:]:
        yield Finding(
            name,
            ("kind",),
            f"kind: found a second stage that opens the run's test split, after '{opening[0]}'; "
            "expected one look a run, so that nothing is chosen by the test figures; remove one of "
            f"the two, set its data, or set harness at '{opening[0]}'",
        )


def _opens_test_split(stage: StageParts, stages: Stages) -> bool:
    if stage.kind != "evaluate" or _measures_own_data(stage):
        return False
    lineage = lineage_of(stages, stage.name)
    if lineage.data is not None or not lineage.trained:
        return lineage.data is not None
    own = stages[lineage.trained[-1].stage].get("data", SftDataConfig)
    return own is not None and own.is_own and own.test_fraction > 0


def _need_of(stage: StageParts, stages: Stages) -> Need | None:
    """Return what a stage needs; ``None`` where its own mistakes hide it."""
    if stage.kind in NEED_OF_FOLDER and need_of(stages, stage.name, MODEL_KINDS) is None:
        if "model" not in stage.sections:
            return None
        if stage.folder is not None:
            is_whole = _measures_own_data(stage) or (not stage.needs and _asks_tasks(stage))
            return NOTHING if is_whole else NEED_OF_FOLDER[stage.kind]
    return NEED_OF_KIND.get(stage.kind, NOTHING)


def _measures_own_data(stage: StageParts) -> bool:
    """Whether an evaluate stage opens no test split (or cannot be judged)."""
    return stage.kind == "evaluate" and (
        "data" not in stage.sections or stage.get("data", MeasuredDataConfig) is not None
    )


def _asks_tasks(stage: StageParts) -> bool:
    """Whether an evaluate stage has something to do without a test split (or is not judged)."""
    return stage.kind == "evaluate" and stage.sections.get("harness", stage) is not None


def _expected_needs(stage: StageParts, stages: Stages) -> str:
    need = _need_of(stage, stages) or NOTHING
    if not need.kinds:
        what = "with model.from_pretrained, " if stage.folder is not None else ""
        return f"{what}{stage.kind} needs no other stage, remove it"
    fitting = _fitting(stage, stages, need)
    candidates = f", such as needs: {fitting[-1]}" if fitting else ""
    is_open = need.kinds == MODEL_KINDS and need_of(stages, stage.name, MODEL_KINDS) is None
    own = f"; or {OWN_MODEL[stage.kind]}" if is_open else ""
    return f"{stage.kind} needs exactly one {any_of(need.kinds)} stage{candidates}{own}"


def any_of(words: Sequence[str]) -> str:
    """Write words as a choice, such as ``pretrain, sft or preference``."""
    *others, last = words
    return f"{', '.join(others)} or {last}" if others else last


def _fitting(stage: StageParts, stages: Stages, need: Need) -> Sequence[str]:
    """Return stages that this one could need: those before it in the file, or else any."""
    names = [name for name, other in stages.items() if other.kind in need.kinds]
    order = list(stages)
    before = [name for name in names if order.index(name) < order.index(stage.name)]
    return before or [name for name in names if name != stage.name]


def _brings_its_own(stage: StageParts) -> bool:
    """Whether a stage of fine-tuning starts from the user's folder (or cannot be judged)."""
    if stage.kind not in ("sft", "preference"):
        return False
    model = stage.get("model", ModelConfig)
    return model is None or model.from_pretrained is not None
