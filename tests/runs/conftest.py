import fcntl
import os

import pytest

from tests.tiny import distrain, write_recipe


@pytest.fixture(scope="session")
def twin(tmp_path_factory):
    """A run that nothing disturbed, and the recipe it came from; one for all workers."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "twin"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "done").exists():
            finished = distrain(folder / "runs", "run", str(write_recipe(folder)))
            assert finished.returncode == 0, finished.stdout + finished.stderr
            (folder / "done").touch()
    return folder / "tiny.yaml", folder / "runs" / "tiny"
