import pytest

from distrain.config.sources import RetriesConfig
from distrain.data.sources.retries import (
    MAX_DELAY_S,
    ShortBodyError,
    full_jitter_s,
    is_temporary,
    retry,
)
from distrain.errors import DataError


class Clock:
    """Time that passes only while someone sleeps or works."""

    def __init__(self):
        self.now = 0.0
        self.delays = []

    def __call__(self):
        return self.now

    def sleep(self, delay):
        self.delays.append(delay)
        self.now += delay


def configured(**settings):
    return RetriesConfig.model_validate(settings)


def run(errors, config, clock, uniform=lambda low, high: high, work_s=0.0):
    left = list(errors)
    limits = []

    def request(timeout):
        limits.append(timeout)
        clock.now += work_s
        if left:
            raise left.pop(0)
        return "answer"

    answer = retry("s3://b/k", request, config, sleep=clock.sleep, clock=clock, uniform=uniform)
    return answer, limits


def caused(error, cause):
    error.__cause__ = cause
    return error


def client_error(status):
    from botocore.exceptions import ClientError

    answer = {"Error": {"Code": str(status)}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(answer, "GetObject")


def test_delays_double_up_to_the_longest_and_never_overflow():
    found = [full_jitter_s(n, 0.5, 3.0, uniform=lambda low, high: high) for n in (1, 2, 3, 4, 5000)]
    assert found == [0.5, 1.0, 2.0, 3.0, 3.0]


def test_an_error_that_goes_away_is_survived_with_growing_delays():
    clock = Clock()
    errors = [ConnectionResetError(), TimeoutError(), ShortBodyError("3 of 5 bytes"), OSError()]
    answer, _ = run(errors, RetriesConfig(first_delay_s=0.5), clock)
    assert answer == "answer"
    assert clock.delays == [0.5, 1.0, 2.0, 4.0]


def test_delays_are_drawn_from_zero_and_do_not_grow_for_ever():
    clock = Clock()
    drawn = []

    def uniform(low, high):
        drawn.append((low, high))
        return 0.0

    config = configured(attempts=100, first_delay_s=1, deadline="1000s")
    run([ConnectionResetError()] * 99, config, clock, uniform)
    assert drawn[:6] == [(0, 1), (0, 2), (0, 4), (0, 8), (0, 16), (0, MAX_DELAY_S)]
    assert set(drawn[5:]) == {(0, MAX_DELAY_S)}


def test_processes_that_are_seeded_alike_still_wait_differently():
    import random

    drawn = []
    for _ in range(2):
        random.seed(0)
        clock = Clock()
        left = [ConnectionResetError()]

        def request(timeout, left=left):
            if left:
                raise left.pop()

        retry("x", request, RetriesConfig(), sleep=clock.sleep, clock=clock)
        drawn += clock.delays
    assert drawn[0] != drawn[1]


def test_attempts_and_deadline_end_it_and_say_what_was_met():
    clock = Clock()
    with pytest.raises(DataError, match="ConnectionResetError: by peer") as caught:
        run([ConnectionResetError("by peer")] * 9, RetriesConfig(attempts=3), clock)
    assert len(clock.delays) == 2
    assert "attempt 3" in caught.value.found
    assert "retries.deadline" in caught.value.remedy

    clock = Clock()
    config = configured(attempts=1000, first_delay_s=0.5, deadline="20s")
    with pytest.raises(DataError, match="TimeoutError"):
        run([TimeoutError()] * 1000, config, clock, work_s=1.0)
    assert clock.now <= 20
    assert clock.now > 10


def test_no_attempt_has_more_time_than_is_left():
    clock = Clock()
    config = configured(timeout="8s", deadline="20s", first_delay_s=1)
    _, limits = run([TimeoutError()] * 2, config, clock, uniform=lambda low, high: 0, work_s=7)
    assert limits == [8, 8, 6]


@pytest.mark.parametrize(
    "error", [FileNotFoundError("x"), PermissionError("x"), IsADirectoryError("x")]
)
def test_an_error_for_good_is_raised_at_once(error):
    clock = Clock()
    with pytest.raises(type(error)):
        run([error], RetriesConfig(), clock)
    assert clock.delays == []


def test_the_cause_decides_whether_an_error_may_go_away():
    pytest.importorskip("botocore")
    aiohttp = pytest.importorskip("aiohttp")
    from botocore.exceptions import EndpointConnectionError, NoCredentialsError

    cut_off = caused(aiohttp.ClientPayloadError("cut"), ValueError("code 400"))
    refused = {404: False, 403: False, 400: False, 429: True, 500: True, 503: True}
    for status, is_expected in refused.items():
        assert is_temporary(caused(OSError("x"), client_error(status))) == is_expected, status
    # fsspec's HTTP file system says "not found" whatever the answer was.
    assert is_temporary(caused(FileNotFoundError("x"), client_error(503)))
    assert is_temporary(caused(FileNotFoundError("x"), ConnectionResetError()))
    assert is_temporary(cut_off)
    assert is_temporary(aiohttp.ServerDisconnectedError())
    assert is_temporary(EndpointConnectionError(endpoint_url="http://x"))
    assert not is_temporary(NoCredentialsError())
    assert not is_temporary(aiohttp.InvalidURL("x"))
    assert not is_temporary(ValueError("x"))
