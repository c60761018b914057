"""Steps and starts as shipped, over a loop as people write it."""
