"""`python -m latentsync` is the command `latentsync`."""

from latentsync_cli.app import main

main()
