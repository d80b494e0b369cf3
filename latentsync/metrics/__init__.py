"""Measures how good a result or a clip is."""
