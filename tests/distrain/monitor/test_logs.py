import logging

import pytest

from distrain.monitor.logs import RankFormatter, configure_logging


@pytest.fixture(autouse=True)
def restored_root():
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    ours = logging.getLogger("distrain").level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.getLogger("distrain").setLevel(ours)


def test_rank_0_shows_information_as_time_and_text(capsys):
    configure_logging(rank=0)
    logging.getLogger("distrain.train").info("step %s", 3)
    time, text = capsys.readouterr().err.strip().split(" ", 1)
    assert text == "step 3"
    assert [len(part) for part in time.split(":")] == [2, 2, 2]


def test_other_ranks_are_silent_until_they_warn(capsys):
    configure_logging(rank=3)
    logger = logging.getLogger("distrain.train")
    logger.info("nobody reads this")
    logger.warning("disk nearly full")
    assert capsys.readouterr().err.strip().endswith("warning [rank 3] disk nearly full")


def test_every_record_carries_the_rank():
    configure_logging(rank=2)
    (handler,) = [
        handler
        for handler in logging.getLogger().handlers
        if isinstance(handler.formatter, RankFormatter)
    ]
    record = logging.LogRecord("distrain", logging.WARNING, "f", 1, "m", (), None)
    handler.filter(record)
    assert record.__dict__["rank"] == 2


def test_other_libraries_are_heard_from_warnings_on(capsys):
    configure_logging(rank=0, level="DEBUG")
    logging.getLogger("torch.something").info("chatter")
    logging.getLogger("distrain.x").debug("detail")
    assert "chatter" not in (said := capsys.readouterr().err)
    assert "debug [rank 0] detail" in said


def test_second_call_does_not_double_the_lines(capsys):
    configure_logging(rank=0)
    configure_logging(rank=0)
    logging.getLogger("distrain").info("once")
    assert capsys.readouterr().err.count("once") == 1
