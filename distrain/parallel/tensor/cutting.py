"""Cut the layers of a model over the tensor axis, by a plan, around the family's own code.

Every parameter becomes a DTensor of the axis, cut or whole: so that norms and clipping count what
is there several times once, and a checkpoint knows what each rank holds. The module's code never
sees one: while a forward pass runs, plain tensors stand in their places (``local_forward``), and
what passes between layers passes through ``peers``.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from distrain.config.models.tensor_plan import TENSOR_STYLES, plan_of, unknown_styles
from distrain.errors import RecipeError
from distrain.models.causal_lm import CausalLM
from distrain.models.output_layer import OutputLayer
from distrain.parallel.local_forward import on_first_input, on_first_output, wrap_forward
from distrain.parallel.model_spec import ModelSpec
from distrain.parallel.ranks import Ranks
from distrain.parallel.tensor.assignment import PlannedModel
from distrain.parallel.tensor.closed import require_closed
from distrain.parallel.tensor.heads import WHERE
from distrain.parallel.tensor.parameters import WHOLE, cut_parameter, reading
from distrain.parallel.tensor.peers import Move, TensorPeers
from distrain.parallel.tensor.regions import Region, regions_of
from distrain.parallel.tensor.stream import ResidualStream
from distrain.parallel.tensor.vocabulary import TensorVocabulary, look_up_own


def cut_along_tensor(module: nn.Module, ranks: Ranks, spec: ModelSpec) -> None:
    """Do what ``cut_tensors`` does as a recipe says; see ``distrain.parallel.cuts``."""
    assert isinstance(module, CausalLM), f"{type(module).__name__} is not one of MODELS"
    asked = spec.parallelism
    if asked.tp_plan:
        # A stage of a pipeline has some of the layers only, and a plan may name others.
        require_closed(module, asked.tp_plan, is_whole=ranks.layout.size("pipeline") == 1)
    # Stages begin several microbatches before the first of them goes back. A block that is then
    # computed again would find the stream as the last one has left it, which may have been of
    # another length.
    is_followed = ranks.layout.size("pipeline") == 1 or spec.recompute_every is None
    cut_tensors(
        module,
        ranks.mesh(spec.device.type)["tensor"],
        plan_of(module.model_config, asked.tp_plan),
        # With it less is kept and as much sent, so it is what ``auto`` means.
        sequence_parallel=asked.sequence_parallel is not False and is_followed,
    )


def cut_tensors(
    model: CausalLM, mesh: DeviceMesh, plan: Mapping[str, str], sequence_parallel: bool
) -> None:
    """Leave each rank its part of every layer that the plan names, in place. Not collective.

    Afterwards a forward pass is collective over the mesh, whose ranks read the same rows.

    Args:
        model: On the meta device or not, before any engine has wrapped it.
        mesh: Of the tensor axis.
        plan: Pattern -> style, from ``distrain.config.models.tensor_plan.plan_of``.
        sequence_parallel: Whether to cut the residual stream, too.

    Raises:
        RecipeError: The plan is empty, or has styles that are not known; what it cuts does not
            divide; adapters are of a form that cannot be cut.
    """
    require_plan(plan)
    peers = TensorPeers(mesh)
    stream = ResidualStream(peers)
    planned = PlannedModel(model, plan, peers.size)
    blocks = {
        name: module
        for name, module in planned.modules.items()
        if isinstance(module, model.block_classes)
    }
    regions = [
        region
        for name, block in blocks.items()
        for region in regions_of(name, block, planned.style_of)
    ]
    _pass_between_layers(planned, peers, stream, regions)
    _store(model, planned, peers, stream, [*blocks.values(), *_of_stream(regions)])
    planned.divide_counts(peers.place)
    for name in planned.vocabulary:
        _cut_by_tokens(planned.modules[name], TensorVocabulary(peers, model.vocab_size))
    for region in regions:
        _pass_through_region(region, stream)
    if sequence_parallel:
        stream.cut_between(model, list(blocks.values()))


def require_plan(plan: Mapping[str, str]) -> None:
    """Refuse a plan that cannot be carried out.

    Raises:
        RecipeError: It is empty, or has styles that are not known.
    """
    where, unknown = "parallelism.tp_plan", unknown_styles(plan)
    remedy = f"Write a plan for these layers in {where}, or set {WHERE} to 1."
    if unknown:
        expected = f"styles out of {', '.join(TENSOR_STYLES)}"
        raise RecipeError(where, f"the style {unknown[0]}", expected, remedy)
    if not plan:
        raise RecipeError(
            where,
            "nothing, for a family that does not say how its layers are cut",
            "a pattern and a style for each layer, as in layers.*.mlp.up_proj: colwise",
            remedy,
        )


def _pass_between_layers(
    planned: PlannedModel, peers: TensorPeers, stream: ResidualStream, regions: list[Region]
) -> None:
    """Put the transitions of each style around its layers. They end up around what is read."""
    # In a region of parts its own entrance hands the stream to all layers that read it, at once.
    ways: dict[str, tuple[Move | None, Move]] = {
        "parts": (None, stream.leave_parts),
        "layer": (stream.enter_parts, stream.leave_parts),
    }
    kinds = {
        f"{region.name}.{name}" if name else region.name: region.kind
        for region in regions
        for name, _ in region.module.named_modules()
    }
    for name, style in planned.layers.items():
        enter, leave = ways.get(kinds.get(name, "whole"), (peers.copied, peers.summed))
        layer = planned.modules[name]
        if style.cuts == "outputs":
            gather = partial(_gathered, peers=peers, size=planned.outputs_of(name))
            wrap_forward(
                layer,
                enter=None if enter is None else on_first_input(enter),
                leave=on_first_output(gather) if style.gathers else None,
            )
        elif style.cuts == "inputs":
            split = on_first_input(lambda x: peers.own_part(x, x.ndim - 1))
            wrap_forward(layer, enter=split if style.splits else None, leave=on_first_output(leave))
        elif style.cuts == "experts":
            wrap_forward(layer, enter=partial(_copied, peers), leave=on_first_output(peers.summed))


def _gathered(part: Tensor, peers: TensorPeers, size: int) -> Tensor:
    return peers.gathered(part, part.ndim - 1, size)


def _copied(
    peers: TensorPeers, args: tuple[Any, ...], keywords: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Copy hidden states and weights of experts; their numbers have no gradient."""

    def copied(value: Any) -> Any:  # noqa: ANN401
        is_float = isinstance(value, Tensor) and value.is_floating_point()
        return peers.copied(value) if is_float else value

    return tuple(map(copied, args)), {key: copied(value) for key, value in keywords.items()}


def _store(
    model: CausalLM,
    planned: PlannedModel,
    peers: TensorPeers,
    stream: ResidualStream,
    in_stream: list[nn.Module],
) -> None:
    """Make every parameter a DTensor, a tied one once, and let modules read plain tensors."""
    cuts = planned.cuts()
    # The old ones are kept up to the end, or another could take over their identity.
    made: dict[nn.Parameter, nn.Parameter] = {}
    for name, module in planned.modules.items():
        reads: dict[str, Callable[[Tensor], Tensor]] = {}
        for key, whole in module._parameters.items():
            if whole is None:
                continue
            cut = cuts.get((module, key), WHOLE)
            if whole not in made:
                made[whole] = cut_parameter(whole, cut, peers)
            module._parameters[key] = made[whole]
            is_in_stream = any(module is other for other in in_stream)
            reads[key] = reading(cut, peers, stream.is_cut if is_in_stream else _never)
            if cut.blocks is not None:
                model.packed[f"{name}.{key}"] = cut.blocks
        if reads:
            wrap_forward(module, reads=reads)


def _never() -> bool:
    return False


def _of_stream(regions: list[Region]) -> list[nn.Module]:
    return [region.module for region in regions if region.kind == "stream"]


def _cut_by_tokens(layer: nn.Module, part: TensorVocabulary) -> None:
    if isinstance(layer, OutputLayer):
        layer.vocabulary = part
        wrap_forward(layer, enter=on_first_input(part.peers.copied))
    else:
        assert isinstance(layer, nn.Embedding)
        look_up_own(layer, part)


def _pass_through_region(region: Region, stream: ResidualStream) -> None:
    if region.kind == "parts":
        wrap_forward(region.module, enter=on_first_input(stream.enter_parts))
    elif region.kind == "whole":
        wrap_forward(
            region.module,
            enter=on_first_input(stream.enter_whole),
            leave=on_first_output(stream.leave_whole),
        )
