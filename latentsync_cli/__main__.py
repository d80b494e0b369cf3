"""`python -m latentsync_cli` is the command `latentsync`."""

from latentsync_cli.app import main

main()
