"""The wheel works where there is no checkout: its own code, its recipes, its templates."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def output(command: list[str], folder: Path) -> str:
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    env["DISTRAIN_RUNS_DIR"] = str(folder / "runs")
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Build the wheel with the build backend that is installed here: no network."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir"]
    output([*command, str(folder), str(ROOT)], folder)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(tmp_path_factory, wheel):
    """A fresh environment with the wheel; its dependencies are those of this environment."""
    folder = tmp_path_factory.mktemp("outside")
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python)]
    output([*pip, "install", "--quiet", "--no-deps", "--no-index", str(wheel)], folder)
    (site_packages,) = (folder / "venv" / "lib").glob("python*/site-packages")
    # A path in a .pth file comes after the environment's own packages, and .pth files that lie
    # there, such as the one of an editable install, are not read.
    (site_packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder


def test_the_wheel_holds_both_packages_recipes_and_templates_and_no_tests(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert "launcher/shipped/recipes/quickstart.yaml" in names
    assert any(name.startswith("launcher/shipped/slurm/") for name in names)
    templates = [name for name in names if name.startswith("launcher/report/report.")]
    assert {Path(name).suffix for name in templates} == {".css", ".j2", ".js"}
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    tops = {name.split("/")[0].split("-")[0] for name in names}
    assert tops == {"launcher", "distrain"}


def test_the_wheel_asks_for_no_torch_unless_for_training(wheel):
    archive = zipfile.ZipFile(wheel)
    metadata = next(name for name in archive.namelist() if name.endswith("METADATA"))
    lines = archive.read(metadata).decode().splitlines()
    required = [line for line in lines if line.startswith("Requires-Dist:")]
    assert not any("torch" in line for line in required if "extra ==" not in line)
    assert any("torch" in line for line in required if "extra ==" in line)


def test_the_installed_command_works_outside_the_checkout(installed):
    distrain = str(installed / "venv" / "bin" / "distrain")
    python = str(installed / "venv" / "bin" / "python")

    where = output([python, "-c", "import launcher; print(launcher.__file__)"], installed)
    assert Path(where.strip()).is_relative_to(installed)
    assert output([distrain, "--version"], installed) == "distrain 0.1.0\n"
    assert "quickstart" in output([distrain, "recipes"], installed)
    assert output([distrain, "validate", "quickstart"], installed).startswith("ok  5 stages")
    plan = json.loads(output([distrain, "plan", "quickstart", "--json"], installed))
    assert [stage["world_size"] for stage in plan["result"]["stages"]] == [1, 2, 2, 1, 1]


def test_the_installed_slurm_template_is_found_outside_the_checkout(installed):
    distrain = str(installed / "venv" / "bin" / "distrain")
    command = [distrain, "plan", "quickstart", "launch.backend=slurm", "--script"]
    assert "#SBATCH" in output(command, installed)
