import shutil

import pytest

from distrain.runs.folder import StageFolder
from distrain.stages.prepare import prepare
from tests.distrain.stages.preparing import stage, write_module


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Small Python modules, one of them twice, and a picture."""
    folder = tmp_path_factory.mktemp("sources")
    for number in range(60):
        write_module(folder / f"{number % 2}_module_{number:02}.py", number)
    shutil.copyfile(folder / "0_module_00.py", folder / "twice.py")
    (folder / "picture.png").write_bytes(b"\x89PNG\0")
    return folder


@pytest.fixture(scope="module")
def prepared(sources, tmp_path_factory):
    folder = StageFolder(tmp_path_factory.mktemp("run"), "prepare")
    return folder, prepare(stage(sources), folder)
