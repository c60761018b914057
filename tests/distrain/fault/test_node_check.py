"""What is measured of nodes: right where they are, and each fault found by what it comes to."""

import json
import time

import pytest
import torch

from distrain.fault import measures
from distrain.fault.measures import factors, known_product, measure_products, parse_smi
from distrain.fault.node_check import ALARM_S, MEET_S, TARGET_S, Check
from launcher.backends.slurm.node_checks import LIMIT_S
from tests.ranks import run_ranks

CPU = torch.device("cpu")


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(measures, "PRODUCT_S", 0.0)


def test_the_known_product_is_that_of_the_factors():
    left, right = factors(77, CPU, torch.int64)
    product, block = left @ right, torch.tensor(known_product(77))
    assert torch.equal(product, block.repeat(7, 7))
    assert len(product.unique()) > 5, "or a constant would pass for it"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_right_products_are_right_in_each_dtype(quick, dtype):
    speed, wrong = measure_products(CPU, dtype)
    assert speed > 0
    assert wrong == ""


def test_one_flipped_bit_of_a_product_is_found(quick, monkeypatch):
    made = []

    class Spoiled(torch.Tensor):
        def __matmul__(self, other):
            product = self.as_subclass(torch.Tensor) @ other
            made.append(product)
            if len(made) == 2:
                product.view(torch.int32)[3, 5] ^= 1 << 12
            return product

    def spoiled(*arguments):
        left, right = factors(*arguments)
        return left.as_subclass(Spoiled), right

    monkeypatch.setattr(measures, "factors", spoiled)
    _, wrong = measure_products(CPU, torch.float32)
    assert wrong == "1 of 3 matrix products in float32 on cpu wrong"


def test_a_disk_that_gives_back_something_else_is_found(tmp_path, monkeypatch):
    assert measures.write_and_read(tmp_path / "new" / "file", 1)[1] == ""
    monkeypatch.setattr(type(tmp_path), "read_bytes", lambda _: b"")
    assert "reads otherwise" in measures.write_and_read(tmp_path / "file", 1)[1]


def test_what_nvidia_smi_says_of_a_gpu_that_is_not_well():
    text = "0, 0, No, No, No\n1, 3, [N/A], Yes, [Not Supported]\n"
    assert list(parse_smi(text)) == [
        "GPU 1 with uncorrected memory errors (3)",
        "GPU 1 with memory rows that wait to be remapped (Yes)",
    ]


class Liar(Check):
    """A node whose link changes what it sends."""

    def _message(self):
        return super()._message() + 1


def check(folder, fault):
    number = torch.distributed.get_rank()
    measures.PRODUCT_S = 0.0
    kind = Liar if fault == "link" and number == 1 else Check
    one = kind(("a", "b", "c"), number, folder / f"{number}.json")
    one.alone(gpus=0)
    if fault == "disk" and number == 1:
        (folder / ".written.1").write_bytes(b"something else")
    one.among_all()
    one.close()


@pytest.mark.parametrize(
    ("fault", "doubts"),
    # A file is read by the node before, in the ring.
    [
        ("link", [["b"], [], ["b"]]),
        pytest.param("", [[], [], []], marks=pytest.mark.seams),
        pytest.param("disk", [["b"], [], []], marks=pytest.mark.seams),
    ],
)
def test_three_nodes_measure_each_other(tmp_path, fault, doubts):
    run_ranks(tmp_path / "store", 3, check, tmp_path, fault)
    found = [json.loads((tmp_path / f"{number}.json").read_text()) for number in range(3)]
    assert [result["doubts"] for result in found] == doubts
    for result in found:
        assert result["wrong"] == []
        assert result["link_mb_s"] > 0
        assert result["all_reduce_mb_s"] > 0
        assert abs(result["clock_s"]) < 5
    assert sorted(path.name for path in tmp_path.glob("*")) == [
        "0.json",
        "1.json",
        "2.json",
        "store",
    ]


def test_there_is_time_for_another_nodes_import_before_any_alarm():
    """Of torch, which from a cold file system may take a minute longer."""
    assert MEET_S >= 60
    assert MEET_S + TARGET_S <= ALARM_S < LIMIT_S


def test_the_wait_for_the_others_is_no_part_of_a_check(tmp_path, monkeypatch):
    check = Check(("a", "b"), 0, tmp_path / "a.json")

    def wait(*_):
        time.sleep(0.3)

    monkeypatch.setattr(check, "_meet", wait)
    check.together("localhost", 1)
    check.write()
    assert check.found.seconds < 0.2
