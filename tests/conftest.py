"""What holds for every test: a newcomer's environment, and no test that quietly does not run."""

import logging
import os

import pytest

# A user's own settings must not reach the tests, nor may anything ask the network.
for name in ("DISTRAIN_RUNS_DIR", "DISTRAIN_SITE", "WANDB_MODE", "SLURM_CONF"):
    os.environ.pop(name, None)
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")


SLOW_FIRST = (
    "tests/test_readme.py",
    "tests/runs/",
    "tests/distrain/train/",
    "tests/distrain/parallel/",
)
"""Whole runs and ranks: begun last, one of these would leave the other core idle for minutes."""


@pytest.fixture(autouse=True)
def _no_handler_is_left():
    """Take away what the entry of a process set up for log records in this one.

    It would write into the stream of a test that has ended, and say so in that of another.
    """
    yield
    root = logging.getLogger()
    for handler in root.handlers[:]:
        if type(handler.formatter).__name__ == "RankFormatter":
            root.removeHandler(handler)


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: not item.nodeid.startswith(SLOW_FIRST))


def pytest_terminal_summary(terminalreporter, exitstatus, config):
    if os.environ.get("DISTRAIN_FORBID_SKIPS") and terminalreporter.stats.get("skipped"):
        terminalreporter.write_line("skipped tests are failures here (DISTRAIN_FORBID_SKIPS)")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session, exitstatus):
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None:
        return  # a worker of pytest-xdist: the process that started it counts
    if os.environ.get("DISTRAIN_FORBID_SKIPS") and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
