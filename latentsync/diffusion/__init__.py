"""Conditioning, noise and sampling."""
