"""What keeps a run safe from its surroundings: stop wishes, parent death, one writer at a time."""
