import pytest
import torch

from distrain.checkpoint.dcp import save_entries
from distrain.checkpoint.weights import CheckpointWeights
from distrain.errors import CheckpointError
from distrain.parallel.collectives import HostGroup
from distrain.parallel.global_tensor import whole

MATRIX, SCALAR = torch.arange(35, dtype=torch.float64).view(7, 5), torch.tensor([2.5])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint")
    entries = {
        "model/a.weight": MATRIX,
        "model/b.lora_A.weight": MATRIX[:2],
        "buffer/bias": SCALAR,
        "exp_avg/a.weight": MATRIX * 2,
    }
    state = {name: whole(tensor, writes=True) for name, tensor in entries.items()}
    save_entries(path, state, HostGroup())
    return path


def test_parameters_and_buffers_are_read_in_parts_without_the_moments(folder):
    weights = CheckpointWeights(folder)
    assert set(weights.forms) == {"a.weight", "b.lora_A.weight", "bias"}
    assert weights.read("a.weight").equal(MATRIX)
    assert weights.read("a.weight", (slice(2, 6), slice(1, 3))).equal(MATRIX[2:6, 1:3])
    assert weights.read("a.weight", (slice(6, 9),)).equal(MATRIX[6:])
    assert weights.read("bias").equal(SCALAR)


def test_what_is_not_chosen_is_not_there(folder):
    weights = CheckpointWeights(folder, lambda name: "lora" in name)
    assert set(weights.forms) == {"b.lora_A.weight"}
    with pytest.raises(CheckpointError, match="no entry named model/ or buffer/"):
        CheckpointWeights(folder, lambda name: name == "c")
