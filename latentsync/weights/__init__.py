"""Weight files: where they are, what they are, how they load."""
