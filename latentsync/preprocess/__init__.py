"""The steps of `latentsync preprocess`, one file each, in the order of `order.py`."""
