"""Heights of the water in a harbour."""

import math


def height(hour, mean, range_of_tide):
    """Return the height of the water at an hour after high water.

    The tide is taken as one wave of twelve hours and twenty-five minutes.
    """
    phase = 2 * math.pi * hour / 12.42
    return mean + range_of_tide / 2 * math.cos(phase)


def depth_under_keel(height_of_water, charted_depth, draught):
    """Return how much water is left under the keel of a boat."""
    return height_of_water + charted_depth - draught


def hours_afloat(charted_depth, draught, mean, range_of_tide):
    """List the whole hours of a day in which the boat does not touch the ground."""
    hours = []
    for hour in range(24):
        water = height(hour, mean, range_of_tide)
        if depth_under_keel(water, charted_depth, draught) > 0:
            hours.append(hour)
    return hours
