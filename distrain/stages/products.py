"""The very checkpoints that a stage is built from: found, checked, and recorded as it begins."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from distrain.checkpoint.agreement import agree, on_first
from distrain.checkpoint.commit import read_commit, verify
from distrain.checkpoint.content import product_of_files
from distrain.checkpoint.layout import committed
from distrain.errors import NotFoundError, PreflightError
from distrain.parallel.collectives import HostGroup
from distrain.runs.command import command_again
from distrain.runs.folder import RunFolder, StageFolder
from distrain.runs.products import (
    BEST,
    LAST,
    Choice,
    Product,
    check_sources,
    read_product,
    read_sources,
    require_same,
    write_sources,
)
from distrain.runs.records import is_done
from distrain.stages.context import StageContext
from distrain.stages.pretrained import require_same_folder

Sources = Mapping[str, Path]
"""Name of a training stage -> the checkpoint that stands for it."""


@dataclass(frozen=True)
class FoundProduct:
    """The checkpoint that stands for a stage, whole."""

    checkpoint: Path
    named: Product
    """What ``result.json`` says of it."""

    def identified(self) -> Product:
        """Return it with the digest of its content, read anew where nobody has taken it."""
        if self.named.digest is not None:
            return self.named
        content = read_commit(self.checkpoint).content
        digest = product_of_files(self.checkpoint) if content is None else content.product
        return replace(self.named, digest=digest)


def build_on(context: StageContext, host: HostGroup) -> Sources:
    """Find the checkpoints that a stage is built from, and record them if it begins. Collective.

    Raises:
        NotFoundError: A stage that it needs has no result.
        PreflightError: A product, or the user's own model, is damaged or gone, or is another one
            than the stage, or one that it needs, has been built on.
    """
    on_first(host, partial(require_same_folder, context))
    names = [link.stage for link in context.source.model]
    found = {name: find_product(context.run, name, host, context.choice_of(name)) for name in names}
    on_first(host, partial(_record, context, found))
    return {name: product.checkpoint for name, product in found.items()}


def find_product(run: RunFolder, name: str, host: HostGroup, choice: Choice = LAST) -> FoundProduct:
    """Find the checkpoint that stands for a stage, and no other. Collective.

    Raises:
        NotFoundError: The stage has no result, or none that names the chosen one.
        PreflightError: The checkpoint is damaged or gone.
    """
    folder = run.stage(name)
    product = read_product(folder, choice)
    if product is None and choice == BEST and is_done(run, name):
        raise NotFoundError(
            str(folder.result),
            "no best checkpoint",
            f"that of stage '{name}', which from_checkpoint: best asks for",
            f"Take from_checkpoint: last, which is there. For a best one, {name}.checkpoint."
            "keep_best has to be set before that stage runs; where it was, no validation gave a "
            "finite value of its metric.",
        )
    if product is None:
        raise NotFoundError(
            str(folder.result),
            "no result that names a checkpoint",
            f"that of stage '{name}', done",
            f"Run the stage '{name}' first: `{command_again(run, '--from', name)}`.",
        )
    checkpoint = look_for(folder, product, host)
    if isinstance(checkpoint, Path):
        return FoundProduct(checkpoint, product)
    raise PreflightError(
        str(folder.checkpoints),
        checkpoint,
        f"the checkpoint of {product}, which stands for stage '{name}'",
        "Make it again, bit for bit, from the last whole checkpoint before it: "
        f"`{command_again(run, '--from', name)}`.",
    )


def look_for(folder: StageFolder, product: Product, host: HostGroup) -> Path | str:
    """Return the checkpoint of a product, or what is wrong, in words. Collective.

    Each rank digests its share of the files. Nothing is moved: only the stage that writes the
    folder may change it.
    """
    present = on_first(host, lambda: committed(folder.checkpoints))
    reasons = []
    for name in reversed([name for name in present if name.step == product.step]):
        path = folder.checkpoints / str(name)
        judge = partial(_judge, path, product, host.rank, host.world_size)
        reason = next((reason for reason in agree(host, judge) if reason is not None), None)
        if reason is None:
            return path
        reasons.append(f"{name}: {reason}")
    others = ", ".join(map(str, present)) or "none at all"
    return "; ".join(reasons) or f"no checkpoint of step {product.step} (there are: {others})"


def _judge(path: Path, product: Product, part: int, num_parts: int) -> str | None:
    reason = verify(path, part=part, num_parts=num_parts)
    if reason is not None:
        return reason
    content = read_commit(path).content
    if content is None or product.digest in (None, content.product):
        return None
    return f"its content is {content.product}, not {product.digest}"


def _record(context: StageContext, found: Mapping[str, FoundProduct]) -> None:
    """Write down what the stage is built on; one that has trained on it may not change over."""
    folder = context.folder
    made = {name: product.identified() for name, product in found.items()}
    before: dict[str, Product] = {}
    for name in made:
        check_sources(context.run, name)  # as of the pretraining below the adapters
        # Weights stand for themselves: what is below them need not be there, and is known by name.
        before |= read_sources(context.run.stage(name))
    products = {name: product for name, product in before.items() if name not in made} | made
    recorded = read_sources(folder)
    if committed(folder.checkpoints):
        for name, built_on in recorded.items():
            if name in products:
                require_same(context.run, context.name, name, built_on, products[name])
    if recorded != products:
        write_sources(folder, products)
