"""Compiled blocks and exact resume: a cut run ends with the bits of one that was not cut."""

import os
import subprocess
import sys

import pytest

from tests.tiny import tensor_digests

CODE = """
import sys
from pathlib import Path
from tests.distrain.train.synthetic import finish, make_run, make_stage

folder, stop, compiles = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "compiled"
stage = make_stage(
    "single",
    precision="fp32",
    max_steps=6,
    dropout=0.1,
    training={"compile": compiles},
    checkpoint={"save_steps": 3},
    eval={"eval_steps": 2},
)
finish(make_run(folder, stage), stop or None)
"""


def train(folder, stop=0, compiles="compiled"):
    """Train in a process of its own, with an empty cache of compiled code."""
    folder.mkdir(exist_ok=True)
    environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(folder / f"code-{stop}")}
    command = [sys.executable, "-c", CODE, str(folder), str(stop), compiles]
    subprocess.run(command, check=True, env=environment)
    return tensor_digests(folder, "pretrain")


@pytest.mark.models
def test_a_cut_run_of_compiled_blocks_resumes_bitwise(tmp_path):
    whole = train(tmp_path / "whole")
    cut = train(tmp_path / "cut", stop=4)
    assert cut != whole
    assert train(tmp_path / "cut") == whole
    # Control: blocks were compiled, which shows in the last bits.
    assert train(tmp_path / "plain", compiles="plain") != whole
