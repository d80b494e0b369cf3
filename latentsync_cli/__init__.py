"""The `latentsync` executable: turns flags into jobs and recipes, and shows what comes back."""
