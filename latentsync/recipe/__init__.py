"""Recipes: strict settings files, their schemas and how they are found."""
