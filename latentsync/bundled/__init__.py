"""The compact model's weights and their model card (package data)."""
