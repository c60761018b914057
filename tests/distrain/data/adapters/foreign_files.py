"""Small token files in the forms of other tools."""

import random
import struct
from itertools import accumulate

import numpy as np

EOS = 0
CODES = {"uint8": 1, "int32": 4, "int64": 5, "uint16": 8}


def make_documents(count, *, seed=0, vocab_size=500, eos_id=EOS):
    choose = random.Random(seed)
    return [
        [*(choose.randrange(1, vocab_size) for _ in range(choose.randint(0, 40))), eos_id]
        for _ in range(count)
    ]


def write_megatron(prefix, documents, *, dtype="uint16", sequences_of=lambda ids: [ids]):
    """Write a pair as ``IndexedDatasetBuilder`` of Megatron-Core does, field by field."""
    kind = np.dtype(dtype).newbyteorder("<")
    sequences, limits = [], [0]
    for document in documents:
        sequences += sequences_of(document)
        limits.append(len(sequences))
    lengths = [len(sequence) for sequence in sequences]
    pointers = [0, *accumulate(length * kind.itemsize for length in lengths)][: len(lengths)]
    tokens = prefix.with_name(f"{prefix.name}.bin")
    tokens.write_bytes(b"".join(np.array(sequence, kind).tobytes() for sequence in sequences))
    prefix.with_name(f"{prefix.name}.idx").write_bytes(
        b"MMIDIDX\x00\x00"
        + struct.pack("<Q", 1)
        + struct.pack("<B", CODES[dtype])
        + struct.pack("<Q", len(lengths))
        + struct.pack("<Q", len(limits))
        + np.array(lengths, "<i4").tobytes()
        + np.array(pointers, "<i8").tobytes()
        + np.array(limits, "<i8").tobytes()
    )
    return tokens


def write_datatrove(path, documents, *, dtype="<u2", metadata=None):
    """Write a ``.ds`` and its index by hand."""
    flat = [token for document in documents for token in document]
    path.write_bytes(np.array(flat, dtype).tobytes())
    ends = list(accumulate(len(document) for document in documents))
    path.with_name(f"{path.name}.index").write_bytes(np.array(ends, "<u8").tobytes())
    if metadata is not None:
        path.with_name(f"{path.name}.metadata").write_text(metadata)
    return path


def read_back(stream):
    return [stream.document(number).tolist() for number in range(stream.num_documents)]
