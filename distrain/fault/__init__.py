"""What keeps a run safe from its surroundings: wishes to stop or yield, and parent death."""
