"""Beds, and what should follow what in them."""

FAMILIES = {
    "cabbage": "brassica",
    "radish": "brassica",
    "pea": "legume",
    "bean": "legume",
    "carrot": "umbel",
    "parsley": "umbel",
    "tomato": "nightshade",
    "potato": "nightshade",
}


def may_follow(before, after):
    """Tell whether a plant may stand where the other one stood last year."""
    return FAMILIES[before] != FAMILIES[after]


def plan(beds, plants):
    """Give each plant the first bed that it may stand in; the rest is returned."""
    chosen, rest = {}, []
    for plant in plants:
        for bed, last in beds.items():
            if bed not in chosen and may_follow(last, plant):
                chosen[bed] = plant
                break
        else:
            rest.append(plant)
    return chosen, rest


def seeds(length, distance, germination):
    """Return how many seeds a row needs if only some of them come up."""
    return round(length / distance / germination)
