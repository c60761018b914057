import pytest
import torch

from distrain.monitor.throughput import known_peak_tflops, mfu, peak_flops

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA H100 80GB HBM3", 989.0),
        ("NVIDIA H100 PCIe", 756.0),
        ("NVIDIA H100 NVL", 835.5),
        ("NVIDIA H200", 989.0),
        ("NVIDIA GH200 480GB", 989.0),
        ("NVIDIA B200", 2250.0),
        ("NVIDIA L40S", 362.1),
        ("NVIDIA L40", 181.1),
        ("NVIDIA L4", 121.0),
        ("NVIDIA RTX 6000 Ada Generation", 364.2),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("Tesla V100-SXM2-32GB", None),
    ],
)
def test_gpu_is_found_by_the_name_its_driver_gives(name, tflops):
    assert known_peak_tflops(name) == tflops


def test_mfu_is_needed_over_possible_arithmetic():
    # 2 ranks of 1 TFLOP/s each; 1,000 tokens/s at 5e8 FLOPs each need a quarter of that.
    assert mfu(1000, 5e8, 2, 1e12) == pytest.approx(0.25)


def test_peak_of_the_recipe_wins():
    assert peak_flops(CPU, peak_tflops=0.5) == 0.5e12


def test_cpu_peak_is_measured_once():
    first = peak_flops(CPU)
    assert first > 1e8  # any core that runs torch does more than 0.1 GFLOP/s
    assert peak_flops(CPU) == first
