"""Doughs by baker's percentages: every weight is a share of the flour."""


def weights(flour, shares):
    """Return the weight of each ingredient for an amount of flour.

    The shares are given in percent of the flour, as bakers do.
    """
    return {name: flour * share / 100 for name, share in shares.items()}


def flour_for(total, shares):
    """Return the flour of a dough that weighs ``total`` in the end."""
    return total / (1 + sum(shares.values()) / 100)


def hydration(flour, water, sourdough):
    """Return water as a share of flour, with both halves of the sourdough counted."""
    return (water + sourdough / 2) / (flour + sourdough / 2)


def loaves(dough, weight_of_loaf):
    """Return how many whole loaves a dough makes, and what is left over."""
    count, left = divmod(dough, weight_of_loaf)
    return int(count), left
