import pytest
import torch

from distrain.errors import PreflightError
from distrain.parallel.device import resolve_device, resolve_precision

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture
def gpus(monkeypatch):
    def pretend(count: int, bf16: bool = True) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16)

    return pretend


def test_auto_is_the_cpu_in_fp32_where_there_is_no_gpu(gpus):
    gpus(0)

    assert resolve_device("auto") == CPU
    assert resolve_precision("auto", CPU) == "fp32"


def test_auto_is_the_gpu_of_this_rank_in_bf16(gpus, monkeypatch):
    gpus(4)
    monkeypatch.setenv("LOCAL_RANK", "3")

    assert resolve_device("auto") == torch.device("cuda", 3)
    assert resolve_device("cpu") == CPU
    assert resolve_precision("auto", CUDA) == "bf16"


def test_a_gpu_without_bf16_computes_in_fp32(gpus):
    gpus(1, bf16=False)

    assert resolve_precision("auto", CUDA) == "fp32"


@pytest.mark.parametrize("name", ["fp32", "bf16", "fp64"])
def test_a_stated_precision_is_kept(name):
    assert resolve_precision(name, CPU) == name


def test_a_missing_gpu_is_refused(gpus):
    gpus(0)
    with pytest.raises(PreflightError, match=r"Set training\.device to cpu"):
        resolve_device("cuda")


def test_more_ranks_than_gpus_are_refused(gpus, monkeypatch):
    gpus(2)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(PreflightError, match=r"Set launch\.processes_per_node to 2"):
        resolve_device("auto")
