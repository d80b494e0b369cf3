"""Every failure raised on purpose, with its exit code and a hint for the person who sees it."""

from __future__ import annotations


class LatentSyncError(Exception):
    """Root of the tree. `hint` is one sentence saying what the person can do next."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(LatentSyncError):
    """Flags or paths that do not fit together."""

    exit_code = 2


class RecipeError(LatentSyncError):
    """A recipe file or an override is not what its schema says."""

    exit_code = 3


class MediaError(LatentSyncError):
    """A video, picture or sound file cannot be read or written."""

    exit_code = 4


class FaceError(LatentSyncError):
    """There is no face to work on, or not the one that was asked for."""

    exit_code = 5


class WeightsError(LatentSyncError):
    """Weights are missing, damaged, or belong to another network."""

    exit_code = 6


class MemoryShortage(LatentSyncError):
    """The device ran out of memory."""

    exit_code = 7


class ShapeError(LatentSyncError, ValueError):
    """A tensor does not have the axes that a function expects: always a caller's bug."""
