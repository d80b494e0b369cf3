"""Where tasks run: processes of this machine or of a Ray cluster, with one scheduler and one log for both."""
