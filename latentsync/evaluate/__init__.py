"""What `evaluate` is made of: pairs of videos, their preparation, scores, their cache, tables, the page."""

from latentsync.callable_package import make_callable

make_callable(__name__)
