"""Training: clips, losses, loop."""
