"""LatentSync: audio-conditioned latent diffusion for lip sync.

The names below come from `latentsync.api`, which is imported when the first of them is used: importing
`latentsync` itself loads no library. Their types are in `__init__.pyi`.
"""

from importlib import import_module

__version__ = "0.1.0"

__all__ = [
    "EvaluateResult",
    "Event",
    "FaceError",
    "LatentSyncError",
    "Measured",
    "MediaError",
    "MemoryShortage",
    "Model",
    "Note",
    "Plan",
    "PreprocessResult",
    "Progress",
    "RecipeError",
    "SyncOptions",
    "SyncResult",
    "SyncedFrames",
    "TrainingResult",
    "UsageError",
    "WeightsError",
    "evaluate",
    "load",
    "preprocess",
    "sync",
    "train_syncnet",
    "train_unet",
]
_PACKAGES = ("evaluate", "preprocess", "sync")  # which are called themselves: see callable_package.py


def __getattr__(name: str) -> object:
    if name in _PACKAGES:
        return import_module(f"latentsync.{name}")
    if name in __all__:
        return getattr(import_module("latentsync.api"), name)
    raise AttributeError(f"module 'latentsync' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
