"""The peers of ``benchmarks.data.tokenize``, each used as its documentation shows it.

``pip install litdata mosaicml-streaming``; datatrove and datasets come with ``distrain[dev]``.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import tokenizers

END_OF_TEXT = "<|endoftext|>"
SEQUENCE = 2048


@dataclass(frozen=True)
class Peer:
    """A way to write tokens, and the packages that it needs.

    Args:
        body: Takes the folder with ``text.parquet`` and ``tokenizer.json``, and what to call once
            everything is loaded; returns the file or folder with the tokens.
    """

    body: Callable[[Path, Callable[[], None]], Path]
    packages: tuple[str, ...]


def missing_packages(peer: Peer) -> list[str]:
    """Return what is not installed."""
    return [name for name in peer.packages if find_spec(name) is None]


def datatrove(folder: Path, begin: Callable[[], None]) -> Path:
    """Run a pipeline of its reader and its tokenizer, in this process."""
    executors = import_module("datatrove.executor.local")
    readers = import_module("datatrove.pipeline.readers")
    tokens = import_module("datatrove.pipeline.tokens")
    target = folder / "datatrove"
    executor = executors.LocalPipelineExecutor(
        pipeline=[
            readers.ParquetReader(str(folder), glob_pattern="text.parquet"),
            tokens.DocumentTokenizer(
                str(target),
                str(folder / "tokenizer.json"),
                eos_token=END_OF_TEXT,
                shuffle_documents=False,
            ),
        ],
        logging_dir=str(folder / "logs"),
    )
    begin()
    executor.run()
    return target


def datasets_map(folder: Path, begin: Callable[[], None]) -> Path:
    """Map batches of texts, and save."""
    datasets = import_module("datasets")
    raw = _raw(folder)
    begin()
    rows = datasets.load_dataset(
        "parquet",
        data_files=str(folder / "text.parquet"),
        split="train",
        cache_dir=str(folder / "cache"),
    )
    target = folder / "datasets"
    rows.map(
        lambda batch: {"ids": [one.ids for one in raw.encode_batch_fast(batch["text"])]},
        batched=True,
        remove_columns=["text"],
    ).save_to_disk(str(target))
    return target


def litdata(folder: Path, begin: Callable[[], None]) -> Path:
    """Optimize by one worker, with its loader of tokens."""
    package = import_module("litdata")
    target = folder / "litdata"
    count = pyarrow.parquet.ParquetFile(folder / "text.parquet").num_row_groups
    begin()
    package.optimize(
        fn=partial(_litdata_rows, folder),
        inputs=list(range(count)),
        output_dir=str(target),
        chunk_size=SEQUENCE * 8012,
        item_loader=package.TokensLoader(),
        num_workers=1,
    )
    return target


def _litdata_rows(folder: Path, row_group: int) -> Iterator[Any]:
    import torch

    file = pyarrow.parquet.ParquetFile(folder / "text.parquet")
    texts = file.read_row_group(row_group, columns=["text"])["text"].to_pylist()
    raw = _raw(folder)
    for encoding in raw.encode_batch_fast(texts):
        yield torch.tensor([*encoding.ids, 0], dtype=torch.uint16)


def mosaic(folder: Path, begin: Callable[[], None]) -> Path:
    """Write samples of fixed length, as llm-foundry does."""
    package = import_module("streaming")
    raw, target = _raw(folder), folder / "mosaic"
    file = pyarrow.parquet.ParquetFile(folder / "text.parquet")
    begin()
    left = np.empty(0, np.uint16)
    columns = {"tokens": f"ndarray:uint16:{SEQUENCE}"}
    with package.MDSWriter(out=str(target), columns=columns) as writer:
        for number in range(file.num_row_groups):
            texts = file.read_row_group(number, columns=["text"])["text"].to_pylist()
            ids = [[*encoding.ids, 0] for encoding in raw.encode_batch_fast(texts)]
            left = np.concatenate([left, *(np.array(one, np.uint16) for one in ids)])
            for row in left[: len(left) // SEQUENCE * SEQUENCE].reshape(-1, SEQUENCE):
                writer.write({"tokens": row})
            left = left[len(left) // SEQUENCE * SEQUENCE :]
    return target


def _raw(folder: Path) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))


PEERS = {
    "datatrove DocumentTokenizer": Peer(datatrove, ("datatrove",)),
    "datasets map": Peer(datasets_map, ("datasets",)),
    "litdata optimize": Peer(litdata, ("litdata",)),
    "Mosaic MDSWriter": Peer(mosaic, ("streaming",)),
}
