"""Sketches of one range on disk: an array that the dedup phase maps instead of reading."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distrain.config.dedup import MinHashConfig
from distrain.data.corpus.minhash import flatten, sketch
from distrain.data.curate.words import TextView
from distrain.runs.durable import whole_file

PENDING_HASHES = 1 << 20
"""N-gram hashes that are gathered before they are sketched: 8 MB."""


class SketchFile:
    """Sketches documents as they come; the file comes to be with ``close``.

    Args:
        path: Of an array of shape (documents, bands * rows), uint32, in Fortran order.
    """

    def __init__(self, path: Path, config: MinHashConfig) -> None:
        self.path = path
        self.config = config
        self._pending: list[NDArray[np.uint64]] = []
        self._hashes = 0
        self._finished: list[NDArray[np.uint32]] = []

    def add(self, view: TextView) -> None:
        """Append one document."""
        hashes = view.shingle_hashes(self.config.ngram)
        self._pending.append(hashes)
        self._hashes += hashes.size
        if self._hashes >= PENDING_HASHES:
            self._sketch()

    def close(self) -> None:
        """Write them all."""
        # Even if nothing is pending: a range without documents has a file too, of no rows.
        self._sketch()
        array = np.asfortranarray(np.concatenate(self._finished))
        with whole_file(self.path, one_writer=True) as stream:
            np.save(stream, array)

    def _sketch(self) -> None:
        pending, self._pending, self._hashes = self._pending, [], 0
        self._finished.append(sketch(*flatten(pending), self.config.bands * self.config.rows))
