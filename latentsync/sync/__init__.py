"""The stages of `sync`: which frames, which crops, and how they run side by side."""

from latentsync.callable_package import make_callable

make_callable(__name__)
