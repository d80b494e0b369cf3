"""The steps of `latentsync preprocess`, one file each, in the order of `order.py`."""

from latentsync.callable_package import make_callable

make_callable(__name__)
