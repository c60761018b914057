import math
import re

import pytest

from launcher.report.charts import (
    GRID,
    ChartSpec,
    Level,
    Scale,
    Series,
    build_chart,
    nice_ticks,
    path_data,
)

UNIT = Scale(0.0, 1.0, is_log=False)


def points_of(data):
    """Read a path back, as the page's script does."""
    points, x, y = [], 0, 0
    for command, body in re.findall(r"([Mlh])([^Mlh]*)", data):
        numbers = [int(text) for text in re.findall(r"-?\d+", body)]
        if command == "h":
            continue
        for dx, dy in zip(numbers[::2], numbers[1::2], strict=True):
            x, y = (dx, dy) if command == "M" else (x + dx, y + dy)
            points.append((x, y))
    return points


def chart(points, **options):
    built = build_chart(ChartSpec("Loss", "nats", (Series("train", "train", points),), **options))
    assert built is not None
    return built


def test_path_holds_every_point_at_its_place():
    values = [(step, 0.5 + 0.5 * math.sin(step)) for step in range(10, 500, 3)]
    data, num_points = path_data(values, 10, UNIT)
    read = points_of(data)
    assert num_points == len(read) == len(values)
    for (step, value), (x, y) in zip(values, read, strict=True):
        assert x == step - 10
        assert 1 - y / GRID == pytest.approx(value, abs=0.5 / GRID)


def test_value_that_is_missing_leaves_a_gap_and_is_not_counted():
    data, num_points = path_data([(1, 0.0), (2, None), (3, 1.0), (4, 0.5)], 1, UNIT)
    assert num_points == len(points_of(data)) == 3
    assert data.count("M") == 2


def test_lone_point_is_drawn():
    assert path_data([(1, 0.5)], 1, UNIT)[0].endswith("h0")


def test_thousand_noisy_points_take_few_bytes():
    values = [(step, 0.5 + 0.04 * math.sin(step * 12.9898)) for step in range(1000)]
    assert len(path_data(values, 0, UNIT)[0]) < 7 * 1000


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 1, [0, 0.25, 0.5, 0.75, 1]),
        (4.5, 8.4, [4, 5, 6, 7, 8, 9]),
        (0, 0.003, [0, 0.001, 0.002, 0.003]),
        (0, 6321, [0, 2000, 4000, 6000, 8000]),
    ],
)
def test_ticks_are_round_and_enclose_the_values(low, high, ticks):
    assert [tick for tick, _ in nice_ticks(low, high, 5)] == pytest.approx(ticks)


def test_constant_values_get_an_axis():
    built = chart([(1, 2.0), (2, 2.0)])
    assert built.low < built.high
    assert built.low <= 2.0 <= built.high


def test_zero_gets_an_axis():
    assert chart([(1, 0.0)], from_zero=True).high > 0


def test_levels_are_inside_the_axis():
    built = chart([(1, 4.0), (2, 5.0)], levels=(Level("b", 6.6), Level("a", 6.3)))
    assert built.high >= 6.6
    assert [level.text for level in built.levels] == ["a 6.300", "b 6.600"]
    assert all(0 <= level.at <= 100 for level in built.levels)


def test_outliers_turn_the_axis_logarithmic_where_allowed():
    points = [(step, 1e4 if step == 1 else 0.5) for step in range(1, 50)]
    built = chart(points, may_be_log=True)
    assert built.is_log
    assert "log scale" in built.unit
    assert (built.low, built.high) == (0.1, 1e4)
    assert not chart(points).is_log


def test_steps_have_whole_ticks():
    assert [tick.text for tick in chart([(1, 1.0), (2, 2.0)]).x_ticks] == ["1", "2"]
    assert [tick.text for tick in chart([(7, 1.0)]).x_ticks] == ["7"]


def test_series_without_values_gives_no_chart():
    assert build_chart(ChartSpec("Loss", "", (Series("train", "train", [(1, None)]),))) is None


def test_marks_outside_the_drawn_steps_are_left_out():
    built = chart([(10, 1.0), (20, 2.0)], marks=((15, "attempt 2"), (30, "attempt 3")))
    assert [(mark.at, mark.text) for mark in built.marks] == [(50.0, "attempt 2")]
