"""Finding, following, aligning and pasting faces."""
