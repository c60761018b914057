"""Every command of the README is executed, or named here with the reason why not."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
SMALLER = (
    "quickstart lr_scheduler.warmup_steps=5"
    " pretrain.training.max_steps=30 sft.training.max_steps=10"
)
"""The same stages and ranks with fewer steps; `make bench` runs and measures the whole."""

EXCLUDED = {
    "pip install -c constraints.txt '.[train]'": "needs the network; make quickstart does it too",
    "make test": "it is what runs this test",
    "make chat": "takes minutes; .ci/run runs it with three steps",
    "make quickstart TORCH_INDEX=https://download.pytorch.org/whl/cpu": "needs the network",
    "make quickstart TORCH_INDEX=https://download.pytorch.org/whl/cu130": "needs the network",
    ".venv/bin/distrain run quickstart.yaml name=mine pretrain.optimizer.learning_rate=1e-3": (
        "takes minutes; `make quickstart` runs the same path"
    ),
    ".venv/bin/distrain submit quickstart.yaml launch.backend=slurm launch.nodes=2 "
    "launch.site=site.yaml": "needs a Slurm; tests/cluster submits to a real one",
}


def readme_commands() -> list[str]:
    blocks = re.findall(r"^```sh\n(.*?)^```", (ROOT / "README.md").read_text(), re.S | re.M)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    return tmp_path_factory.mktemp("readme")


@pytest.fixture(scope="module")
def run_command(workplace):
    environment = {**os.environ, "DISTRAIN_RUNS_DIR": str(workplace / "runs"), "NO_COLOR": "1"}

    def run(line: str) -> subprocess.CompletedProcess[str]:
        folder = workplace
        if line == "make quickstart":
            folder = ROOT
            arguments = ["make", "quickstart", f"VENV={BIN.parent}", f"RECIPE={SMALLER}"]
        else:
            arguments = ["sh", "-c", line.replace(".venv/bin/", f"{BIN}/")]
        return subprocess.run(
            arguments,
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )

    return run


def test_the_commands_of_the_readme_do_what_it_says(run_command):
    # in the order of the README: the later ones look at what the earlier ones made
    for line in readme_commands():
        if line in EXCLUDED:
            continue
        finished = run_command(line)
        assert finished.returncode == 0, f"{line}\n{finished.stdout}\n{finished.stderr}"


def test_no_exclusion_is_out_of_date():
    assert set(EXCLUDED) <= set(readme_commands())
