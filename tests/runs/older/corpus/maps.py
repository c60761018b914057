"""Distances on a globe and on paper."""

import math

RADIUS_KM = 6371.0


def distance(a, b):
    """Return the kilometres between two places, along the great circle.

    A place is a pair of latitude and longitude in degrees.
    """
    lat1, lon1, lat2, lon2 = map(math.radians, (*a, *b))
    half = math.sin((lat2 - lat1) / 2) ** 2
    half += math.cos(lat1) * math.cos(lat2) * math.sin((lon2 - lon1) / 2) ** 2
    return 2 * RADIUS_KM * math.asin(math.sqrt(half))


def on_paper(kilometres, scale):
    """Return the centimetres that a distance takes on a map of this scale."""
    return kilometres * 100_000 / scale


def bounds(places):
    """Return the smallest box that holds all places: south, west, north, east."""
    lats = [lat for lat, _ in places]
    lons = [lon for _, lon in places]
    return min(lats), min(lons), max(lats), max(lons)


def bearing_name(degrees):
    """Name a direction by the nearest of eight winds."""
    names = ("north", "northeast", "east", "southeast", "south", "southwest", "west", "northwest")
    return names[round(degrees / 45) % 8]
