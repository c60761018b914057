"""What the tests of the commands share: a command line in this process, and its runs folder."""

import pytest

from launcher.commands import cli


@pytest.fixture
def runs_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("DISTRAIN_RUNS_DIR", str(tmp_path / "runs"))
    monkeypatch.delenv("DISTRAIN_SITE", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def distrain(capsys):
    """Run a command line in this process; returns exit code, stdout, stderr."""

    def run(*argv):
        code = cli.main(argv)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run
