"""Text to tokens on disk: megabytes of text per CPU-second, beside ``tokenizers`` and peers.

    python -m benchmarks.data.tokenize [--megabytes 40] [--rounds 5]

Each run is a process of its own, so that no cache of words is warm; counted is the CPU time of it
and of its children from the first document on. What comes before (imports, loading the tokenizer,
checking the engine) is the column "start".
"""

import argparse
import hashlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute
import pyarrow.parquet
import tokenizers

from benchmarks.data.text import real_texts
from benchmarks.data.tokenize_peers import PEERS, missing_packages
from benchmarks.measuring import machine_line, median_ratio, table
from distrain.config.data import EngineName
from distrain.data.shards.writer import DataOrigin, ShardWriter
from distrain.data.tokenizer.encoders.choose import choose_encoder, open_encoder
from distrain.data.tokenizer.tokenizer import Tokenizer, train_tokenizer

LIMIT = "limit: encode_batch_fast, uint16 file"
OURS: dict[str, EngineName] = {
    "ours, tokenizers": "tokenizers",
    "ours, gigatoken": "gigatoken",
    "ours, fastokens": "fastokens",
}
VOCAB_SIZE = 32_000
TRAIN_MEGABYTES = 10
ROW_GROUP = 1000
"""Documents in a row group, and in a batch of every body."""


@dataclass
class Clock:
    """CPU seconds of this process, its threads and its ended children."""

    start_s: float = 0.0

    def begin(self) -> None:
        """End what is counted as start."""
        self.start_s = cpu_s()


def cpu_s() -> float:
    """CPU seconds of this process and of its children that have ended."""
    own, children = (resource.getrusage(who) for who in (0, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def peak_mib() -> int:
    """Most memory that this process had so far; its maxrss would be at least its parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM"))


def batches(folder: Path) -> Iterator[pyarrow.ChunkedArray]:
    """Yield the texts of each row group."""
    file = pyarrow.parquet.ParquetFile(folder / "text.parquet")
    for number in range(file.num_row_groups):
        yield file.read_row_group(number, columns=["text"], use_threads=False)["text"]


def limit(folder: Path, clock: Clock) -> Path:
    """Do what has to be done with ``tokenizers``, and nothing else."""
    raw = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    raw.encode_special_tokens = True
    eos_id = raw.token_to_id("<|endoftext|>")
    target = folder / "limit.bin"
    clock.begin()
    with target.open("wb") as stream:
        for column in batches(folder):
            encodings = raw.encode_batch_fast(column.to_pylist(), add_special_tokens=False)
            for encoding in encodings:
                stream.write(np.array([*encoding.ids, eos_id], np.uint16).tobytes())
    return target


def ours(folder: Path, clock: Clock, engine: EngineName) -> Path:
    """Do it as ``prepare`` does, digests and fsync included."""
    tokenizer = Tokenizer.load(folder / "tokenizer.json")
    sample = next(batches(folder)).to_pylist()
    _, report = choose_encoder(tokenizer.content, engine, sample)
    encoder = open_encoder(report, tokenizer.content)  # its caches are cold, as in a worker
    clock.begin()
    target = folder / "train" / "text"
    with ShardWriter(target, DataOrigin(tokenizer, "benchmark"), shard_tokens=1 << 62) as writer:
        for column in batches(folder):
            encoded = encoder.encode(column.to_pylist())
            text_bytes = pyarrow.compute.sum(pyarrow.compute.binary_length(column)).as_py()
            writer.add_batch(encoded.ids, encoded.ends, text_bytes)
        writer.commit()
    return target / "00000.bin"


def run_one(name: str, folder: Path) -> dict[str, Any]:
    """Run one body in this process; returns what the parent wants to know."""
    clock = Clock()
    if name == LIMIT:
        written = limit(folder, clock)
    elif name in OURS:
        written = ours(folder, clock, OURS[name])
    else:
        written = PEERS[name].body(folder, clock.begin)
    return {
        "start_s": clock.start_s,
        "work_s": cpu_s() - clock.start_s,
        "size_bytes": _size(written),
        "peak_mib": peak_mib(),
        "digest": hashlib.sha256(written.read_bytes()).hexdigest() if written.is_file() else "",
    }


def _size(written: Path) -> int:
    files = [written] if written.is_file() else list(written.rglob("*"))
    return sum(file.stat().st_size for file in files if file.is_file())


def measure(name: str, corpus: Path) -> dict[str, Any]:
    """Run one body in a fresh process and folder."""
    # One thread: more of them cost tokenizers CPU time and would flatter us.
    env = os.environ | {"TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory(dir=corpus) as run:
        for file in ("text.parquet", "tokenizer.json"):
            (Path(run) / file).hardlink_to(corpus / file)
        command = [sys.executable, "-m", "benchmarks.data.tokenize", "--one", name, run]
        done = subprocess.run(command, check=False, capture_output=True, text=True, env=env)
    if done.returncode:
        raise RuntimeError(f"{name} failed:\n{done.stderr[-3000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def make_corpus(folder: Path, megabytes: float) -> float:
    """Write texts and tokenizer; returns megabytes of text."""
    texts = real_texts(max(megabytes, TRAIN_MEGABYTES))
    content = train_tokenizer(
        _up_to(texts, TRAIN_MEGABYTES), vocab_size=VOCAB_SIZE, min_frequency=2
    )
    (folder / "tokenizer.json").write_text(content, encoding="utf-8")
    texts = list(_up_to(texts, megabytes))
    rows = pyarrow.table({"text": texts})
    pyarrow.parquet.write_table(rows, folder / "text.parquet", row_group_size=ROW_GROUP)
    return sum(len(text.encode()) for text in texts) / 1e6


def _up_to(texts: list[str], megabytes: float) -> Iterator[str]:
    left = megabytes * 1e6
    for text in texts:
        if left <= 0:
            return
        yield text
        left -= len(text.encode())


def is_usable(name: str, corpus: Path) -> bool:
    """Try a peer once, and say so if it cannot run here."""
    if missing := missing_packages(PEERS[name]):
        print(f"left out: {name} ({', '.join(missing)} not installed)")
        return False
    try:
        measure(name, corpus)
    except RuntimeError as error:
        print(f"left out: {name} ({str(error).splitlines()[-1]})")
        return False
    return True


def compare(corpus: Path, megabytes: float, rounds: int) -> str:
    """Interleave all bodies and lay out the medians."""
    names = [LIMIT, *OURS, *(name for name in PEERS if is_usable(name, corpus))]
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for number in range(rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            runs[name].append(measure(name, corpus))
    rates = {name: [megabytes / run["work_s"] for run in of] for name, of in runs.items()}
    digest = runs[LIMIT][0]["digest"]
    rows = [
        [
            name,
            f"{statistics.median(rates[name]):.1f}",
            f"{min(rates[name]):.1f}-{max(rates[name]):.1f}",
            f"{median_ratio(rates[name], rates[LIMIT]):.2f}",
            f"{statistics.median(run['start_s'] for run in of):.1f}",
            f"{statistics.median(run['peak_mib'] for run in of):.0f}",
            f"{of[0]['size_bytes'] / 1e6:.2f}",
            "yes" if {run["digest"] for run in of} == {digest} else "another format",
        ]
        for name, of in runs.items()
    ]
    for name in OURS:
        if {run["digest"] for run in runs[name]} != {digest}:
            raise SystemExit(f"{name} wrote other ids than the limit")
    head = ["text -> tokens on disk", "MB per CPU-s (median)", "range", "of the limit"]
    head += ["start, CPU s", "peak MiB", "MB on disk", "same bytes"]
    return table(head, rows)


def main() -> None:
    """Print the table, or run one body for it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=float, default=40)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--one", nargs=2, metavar=("BODY", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        name, folder = arguments.one
        print(json.dumps(run_one(name, Path(folder))))
        return
    with tempfile.TemporaryDirectory() as folder:
        megabytes = make_corpus(Path(folder), arguments.megabytes)
        print(f"{megabytes:.1f} MB of text, {VOCAB_SIZE:,} tokens; {machine_line()}")
        print(compare(Path(folder), megabytes, arguments.rounds), machine_line(), sep="\n\n")


if __name__ == "__main__":
    main()
