"""What a run shows of itself: step records, lines on the screen, events, speed and memory."""
