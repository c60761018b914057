"""What is measured of one node before work begins there: products, its disk, its GPUs.

Every value has an answer that was known before, so that a wrong one needs no second opinion.
"""

import hashlib
import os
import resource
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from distrain.runs.durable import sync_stream

PRODUCT_S = 0.5
"""For each device and dtype."""
SIZE, GPU_SIZE = 256, 4096
"""Of a matrix. On a CPU so small that a product takes about a millisecond: the best of hundreds
says what the core can do, also while others are at work on it."""
PERIOD = 11
"""Of both factors along both axes. A prime, so that rows and columns do not cancel out."""
DISK_BYTES = 4 << 20
FREE_SHARE = 0.9
"""Of a GPU's memory, before anything of this job is there."""
SMI_S = 10.0
SMI_FIELDS = {
    "ecc.errors.uncorrected.volatile.total": "uncorrected memory errors",
    "retired_pages.pending": "memory pages that wait to be retired",
    "remapped_rows.pending": "memory rows that wait to be remapped",
    "remapped_rows.failure": "memory rows that could not be remapped",
}
HEALTHY = ("0", "no", "n/a", "[n/a]", "[not supported]")


def factors(size: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return two (size, size) matrices of small whole numbers with the period ``PERIOD``."""
    at = torch.arange(size, device=device)
    products = at[:, None] * at[None, :]
    return (products % PERIOD - 5).to(dtype), ((products + 3) % PERIOD - 5).to(dtype)


def known_product(size: int) -> list[list[int]]:
    """Return the product of ``factors``, as the (PERIOD, PERIOD) block of which it consists.

    By Python's own whole numbers: nothing of it comes from what is tested.
    """
    block = range(PERIOD)
    return [
        [sum((i * k % PERIOD - 5) * ((k * j + 3) % PERIOD - 5) for k in range(size)) for j in block]
        for i in block
    ]


def measure_products(device: torch.device, dtype: torch.dtype) -> tuple[float, str]:
    """Multiply for ``PRODUCT_S``.

    Sums stay below 2**24, so they are exact in float32 in whatever order they are taken; a
    narrower dtype rounds the exact sum once.

    Returns:
        GFLOP/s of the fastest, and how many were wrong, in words; empty: none.
    """
    size = GPU_SIZE if device.type == "cuda" else SIZE
    left, right = factors(size, device, dtype)
    at = torch.arange(size, device=device)
    block = torch.tensor(known_product(size), dtype=torch.float32, device=device)
    expected = block[at[:, None] % PERIOD, at[None, :] % PERIOD].to(dtype)
    best_s, made, wrong = float("inf"), 0, 0
    until = time.perf_counter() + PRODUCT_S
    while time.perf_counter() < until or made < 3:
        started = time.perf_counter()
        product = left @ right
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best_s = min(best_s, time.perf_counter() - started)
        wrong += int(not torch.equal(product, expected))
        made += 1
    name = str(dtype).removeprefix("torch.")
    words = f"{wrong} of {made} matrix products in {name} on {device} wrong" if wrong else ""
    return 2 * size**3 / best_s / 1e9, words


def write_and_read(path: Path, seed: int) -> tuple[float, str]:
    """Write a file to the run's folder, sync it, and read it back from where it lies.

    Returns:
        MB/s written, and what went wrong, in words; empty: nothing.
    """
    content = content_of(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    with path.open("wb") as stream:
        stream.write(content)
        sync_stream(stream)
        took_s = time.perf_counter() - started
        # From here on the system has no copy of its own to answer from.
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    wrong = "" if path.read_bytes() == content else f"{path} reads otherwise than it was written"
    return len(content) / took_s / 1e6, wrong


def content_of(seed: int) -> bytes:
    """Return the content of such a file, which any node can make for itself."""
    return hashlib.shake_128(str(seed).encode()).digest(DISK_BYTES)


def open_files() -> int:
    """Return how many files a process may have open at most, if it asks for that."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 30 if hard == resource.RLIM_INFINITY else hard


def gpu_problems(expected: int) -> Iterator[str]:
    """Yield what is wrong with this node's GPUs, in words. Not run on a GPU yet.

    Args:
        expected: How many the job was given; a torch without CUDA has none, whatever was given.
    """
    if torch.version.cuda is None:
        return
    found = torch.cuda.device_count()
    if found < expected:
        yield f"{found} GPUs of the {expected} that the job was given"
    for number in range(found):
        free, total = torch.cuda.mem_get_info(number)
        if free < FREE_SHARE * total:
            yield f"GPU {number} with only {free / total:.0%} of its memory free"
    if found:
        yield from _smi_problems()


def _smi_problems() -> Iterator[str]:
    query = f"--query-gpu=index,{','.join(SMI_FIELDS)}"
    try:
        done = subprocess.run(
            ["nvidia-smi", query, "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=SMI_S,
            check=False,
        )
    except FileNotFoundError:
        return
    except subprocess.TimeoutExpired:
        yield f"no answer of nvidia-smi within {SMI_S:.0f} s"
        return
    # A field that this driver does not know makes the whole query fail: that says nothing.
    if done.returncode == 0:
        yield from parse_smi(done.stdout)


def parse_smi(text: str) -> Iterator[str]:
    """Read what nvidia-smi says of each GPU: its number, then ``SMI_FIELDS``."""
    for line in text.splitlines():
        index, *values = (value.strip() for value in line.split(","))
        for what, value in zip(SMI_FIELDS.values(), values, strict=False):
            if value.lower() not in HEALTHY:
                yield f"GPU {index} with {what} ({value})"
