"""Brightness of stars, as old astronomers counted it."""

import math


def ratio(first, second):
    """Return how much more light the first star sends than the second.

    Five magnitudes are a factor of a hundred, and a smaller number is brighter.
    """
    return 100 ** ((second - first) / 5)


def together(magnitudes):
    """Return the magnitude of several stars that the eye takes for one."""
    light = sum(10 ** (-0.4 * magnitude) for magnitude in magnitudes)
    return -2.5 * math.log10(light)


def absolute(apparent, parsecs):
    """Return how bright a star would be from a distance of ten parsecs."""
    return apparent - 5 * math.log10(parsecs / 10)


def visible(catalogue, limit=6.0):
    """Yield the names of the stars that can be seen without a glass, brightest first."""
    for name in sorted(catalogue, key=catalogue.get):
        if catalogue[name] <= limit:
            yield name
