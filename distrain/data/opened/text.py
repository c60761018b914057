"""Sources of text: splits that the prepare stage wrote, or ranges tokenized while they are read."""

import hashlib
from typing import TYPE_CHECKING

from distrain.data.opened.cutting import cut_samples
from distrain.data.opened.form import PreparedData, SampleSettings
from distrain.data.samples.order import Order
from distrain.data.samples.source import OpenedSource, SourceTokens
from distrain.data.shards.manifest import check_split
from distrain.data.shards.reader import open_split
from distrain.errors import DataError
from distrain.runs.folder import StageFolder

if TYPE_CHECKING:
    from distrain.data.corpus.plan import InputPlan


class PreparedText:
    """Text that the prepare stage has cleaned and tokenized."""

    keeps_names = True

    def tokens(self, prepared: PreparedData, name: str, split: str) -> SourceTokens:
        """Open one split; see ``SourceForm``."""
        found = open_split(
            prepared.folder.path,
            split,
            name,
            stage_kind=prepared.stage_kind,
            verify=not prepared.is_look,
        )
        return SourceTokens.of_split(found)

    def samples(self, prepared: PreparedData, name: str, settings: SampleSettings) -> OpenedSource:
        """Open what is trained on; see ``SourceForm``."""
        return cut_samples(prepared.reading, self.tokens(prepared, name, "train"), name, settings)


class OnTheFlyText(PreparedText):
    """Text whose train split is tokenized range by range; the prepare stage wrote the others."""

    def samples(self, prepared: PreparedData, name: str, settings: SampleSettings) -> OpenedSource:
        """Open what is trained on, in the order in which its ranges will be made."""
        # All that prepare does comes with these: a twentieth of the start of a stage that does
        # not make ranges.
        from distrain.data.corpus.train_ranges import MakeTrainRange
        from distrain.data.samples.on_the_fly import OnTheFlyStream, range_order
        from distrain.data.samples.range_shards import AHEAD, Patience, RangeShards

        reading, folder = prepared.reading, prepared.folder
        plan = load_prepared_plan(folder)
        # The validation split was encoded by the engine whose ids were checked, for this tokenizer.
        manifest = check_split(folder.path, "validation", name, verify=False)
        make = MakeTrainRange(
            config=prepared.data,
            source=name,
            plan=folder.plan,
            tokenizer=folder.tokenizer,
            encoder=manifest.encoder,
            corpus=manifest.corpus,
            root=folder.ranges,
        )
        ranges = RangeShards(
            make,
            range_order(settings.seed, name, len(plan.of_source(name))),
            # What the run has read is there; a look makes nothing that nobody asked for.
            ahead=0 if prepared.is_look else AHEAD,
            patience=Patience(reading.cache.stall_warning, reading.cache.stall_deadline),
        )
        content = hashlib.sha256(folder.plan.read_bytes())
        content.update(f"{manifest.tokenizer} {manifest.corpus}".encode())
        order = reading.order
        return OnTheFlyStream(
            ranges,
            Order(settings.seed, name, 1, order.block_samples, order.window_blocks),
            settings.length,
            is_packed=reading.packing == "best_fit",
            content=content.hexdigest(),
            vocab_size=manifest.vocab_size,
        )


def load_prepared_plan(prepare: StageFolder) -> "InputPlan":
    """Read the ranges that the prepare stage has found.

    Raises:
        DataError: They are not there.
    """
    from distrain.data.corpus.plan import load_plan

    plan = load_plan(prepare.plan)
    if plan is None:
        raise DataError(
            str(prepare.plan),
            "no plan of input ranges",
            "the finished prepare stage of a recipe with data.on_the_fly",
            "Run the prepare stage first.",
        )
    return plan
