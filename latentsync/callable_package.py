"""Lets a package of the library be called: `latentsync.sync(…)` beside `latentsync.sync.run`.

Importing `latentsync.sync.run` binds the name `sync` in `latentsync` to the package, over any function of
that name. So the package itself answers the call, and passes it to the function in `latentsync.api`.
"""

from __future__ import annotations

import inspect
import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class CallablePackage(ModuleType):
    """A package that is also the function of its own name in `latentsync.api`."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        return _function_of(self)(*args, **options)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(_function_of(self))


def make_callable(package: str) -> None:
    """Make the imported package of that name callable."""
    sys.modules[package].__class__ = CallablePackage


def _function_of(package: ModuleType) -> Any:
    return getattr(import_module("latentsync.api"), package.__name__.rpartition(".")[2])
