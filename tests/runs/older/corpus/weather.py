"""What a station on a hill writes down."""

import math


def celsius(fahrenheit):
    """Turn degrees Fahrenheit into degrees Celsius."""
    return (fahrenheit - 32) * 5 / 9


def dew_point(temperature, humidity):
    """Return the temperature at which the air would give off water.

    This is the formula of Magnus; the humidity is given in percent.
    """
    gamma = math.log(humidity / 100) + 17.62 * temperature / (243.12 + temperature)
    return 243.12 * gamma / (17.62 - gamma)


def running_mean(values, width):
    """Yield the mean of the last few values, once there are enough of them."""
    window = []
    for value in values:
        window.append(value)
        if len(window) > width:
            window.pop(0)
        if len(window) == width:
            yield sum(window) / width


def wettest(rain):
    """Return the day with the most rain; of equal days, the first."""
    return max(rain, key=rain.get)
