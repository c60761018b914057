"""Speed: tokens per second, and how much of the device's peak the model's arithmetic reaches."""

import functools
import logging
import time

import torch

logger = logging.getLogger(__name__)

TERA = 1e12
PEAK_TFLOPS = {
    "GB300": 2500.0,
    "GB200": 2500.0,
    "B300": 2250.0,
    "B200": 2250.0,
    "GH200": 989.0,
    "H200 NVL": 835.5,
    "H200": 989.0,
    "H20": 148.0,
    "H100 NVL": 835.5,
    "H100 PCIe": 756.0,
    "H800": 989.0,
    "H100": 989.0,
    "A100": 312.0,
    "A800": 312.0,
    "A10G": 70.0,
    "A10": 125.0,
    "A30": 165.0,
    "A40": 149.7,
    "L40S": 362.1,
    "L40": 181.1,
    "L4": 121.0,
    "RTX 6000 Ada": 364.2,
    "RTX A6000": 154.8,
    "RTX 5090": 209.5,
    "RTX 4090": 165.2,
    "RTX 3090": 71.0,
    "MI325X": 1307.4,
    "MI300X": 1307.4,
}
"""Dense bf16 peak of one device with fp32 accumulation, in TFLOP/s, from the makers' data sheets.

Where a sheet states the figure with sparsity, half of it stands here. A name contains its key; the
longest key that matches counts (``H100 PCIe`` before ``H100``).
"""
MATMUL_SIZE = 512
MATMUL_TIME_S = 0.05


def mfu(tokens_per_sec: float, flops_per_token: float, num_ranks: int, peak_flops: float) -> float:
    """Compute model FLOPs utilization, a fraction.

    ``flops_per_token * tokens_per_sec / (num_ranks * peak_flops)``: the arithmetic that the model
    needs for forward and backward, without recomputation, over what the devices could do (PaLM,
    arXiv 2204.02311, appendix B). ``flops_per_token`` is the model's to declare, for rows of the
    stage's length; padding is no token here, though a device may compute it.
    """
    return flops_per_token * tokens_per_sec / (num_ranks * peak_flops)


def peak_flops(device: torch.device, peak_tflops: float | None = None) -> float:
    """Look up or measure the peak of one device, in FLOP/s.

    Args:
        device: A known GPU is found by its name; anything else is measured with a matrix product
            in 0.05 s, once per process, with the threads that the process has now.
        peak_tflops: ``logging.peak_tflops`` of the recipe; it wins.
    """
    if peak_tflops is not None:
        return peak_tflops * TERA
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        known = known_peak_tflops(name)
        if known is not None:
            return known * TERA
        logger.info("peak of %s is not known: measuring it (or set logging.peak_tflops)", name)
    return _measured_flops(device)


def known_peak_tflops(name: str) -> float | None:
    """Find the dense bf16 peak of a GPU by its marketing name, in TFLOP/s."""
    words = name.replace("-", " ").split()
    if "Laptop" in words:  # the same name, another chip
        return None
    # Every word of the key must be a word of the name, so that L4 is not found in L40.
    matches = [key for key in PEAK_TFLOPS if set(key.split()) <= set(words)]
    return PEAK_TFLOPS[max(matches, key=len)] if matches else None


@functools.cache
def _measured_flops(device: torch.device) -> float:
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    size = MATMUL_SIZE * 8 if device.type == "cuda" else MATMUL_SIZE
    left = torch.ones(size, size, device=device, dtype=dtype)
    product = torch.empty_like(left)
    flops_per_matmul = 2 * size**3
    best = 0.0
    deadline = time.monotonic() + MATMUL_TIME_S
    # The fastest product counts: the first ones warm up, others share the core with a neighbour.
    while time.monotonic() < deadline or best == 0.0:
        start = time.perf_counter()
        torch.matmul(left, left, out=product)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = max(best, flops_per_matmul / (time.perf_counter() - start))
    return best
