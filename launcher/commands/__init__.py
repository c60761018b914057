"""What the user types: the commands, their arguments, and what they print."""
