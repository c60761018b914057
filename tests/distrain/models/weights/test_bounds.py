"""A rank's own memory while weights come in and go out: its shard and two parameters.

Of a whole ZeRO-3 engine also the gradients of the shard, which DeepSpeed makes with it.
"""

import pytest

from benchmarks.weights import SIZES, make_inputs, measure

SLACK = 32 * 10**6
"""Of stacks and heaps, beside parameters of 33 MB and a model of 268 MB: a copy is noticed."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights")
    for size in SIZES:
        make_inputs(path / size, size)
    return path


@pytest.mark.models
@pytest.mark.parametrize(
    "case",
    [
        *("import a folder, single", "import a folder, fsdp", "import a checkpoint, single"),
        *("cut for ZeRO-3, deepspeed", "import a folder, deepspeed"),
        *("export a checkpoint", "export and compare"),
    ],
)
def test_no_rank_holds_more_than_its_shard_and_two_parameters(folder, case):
    for found in measure(case, folder):
        assert found.shard <= found.peak + SLACK  # else nothing was measured
        assert found.peak <= found.bound + SLACK
