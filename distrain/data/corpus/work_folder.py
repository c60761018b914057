"""File names of what a prepare stage makes on its way, and removes when it is done."""

from pathlib import Path

from distrain.data.corpus.plan import PlannedRange


class WorkFolder:
    """File names below ``<stage>/work``. Builds paths, touches nothing."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.cleaned = root / "cleaned"
        self.encoded = root / "encoded"
        self.masks = root / "dropped.npy"
        """One byte for each cleaned document of the plan, in order: 0 if it is kept."""
        self.decided = root / "decided.json"
        """The counts; written after ``masks``: the dedup phase is done."""
        self.engine = root / "encoder.json"
        """The engine that encodes; chosen once, for all ranges."""
        self.locks = root / "locks"
        """Held by the processes that make one share of the ranges each."""

    def documents(self, planned: PlannedRange) -> Path:
        """Cleaned documents of a range, a Parquet file."""
        return self.cleaned / f"{planned.key}.parquet"

    def sketches(self, planned: PlannedRange) -> Path:
        """MinHash sketches of the same documents."""
        return self._beside(planned, "sketches.npy")

    @property
    def ngrams(self) -> Path:
        """N-grams of the held-out documents, for decontamination."""
        return self.root / "held_out_ngrams.npy"

    def cleaned_record(self, planned: PlannedRange) -> Path:
        """Written last: the range is cleaned."""
        return self._beside(planned, "json")

    def _beside(self, planned: PlannedRange, ending: str) -> Path:
        # An underscore hides it from those who read the folder as one Parquet data set.
        documents = self.documents(planned)
        return documents.with_name(f"_{documents.stem}.{ending}")

    def shards(self, planned: PlannedRange) -> Path:
        """Folder of the range's shards: ``<split>/<source>``, as in the stage's folder."""
        return self.encoded / planned.key

    def pairs(self, planned: PlannedRange) -> Path:
        """Pairs of a range, in the order of its documents, each line after its split."""
        return self.encoded / f"{planned.key}.pairs"

    def encoded_record(self, planned: PlannedRange) -> Path:
        """Written last: the range is encoded."""
        return self.encoded / f"{planned.key}.json"
