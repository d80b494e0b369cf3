"""Where work is done: processes of this machine or of a Ray cluster, with one loop and one log for both."""
