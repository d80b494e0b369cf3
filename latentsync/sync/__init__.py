"""The stages of `sync`: which frames, which crops, and how they run side by side."""
