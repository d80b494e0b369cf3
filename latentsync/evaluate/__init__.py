"""What `evaluate` is made of: pairs of videos, their preparation, scores, their cache, tables, the page."""
