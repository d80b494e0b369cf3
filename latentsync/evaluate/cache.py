"""Scores that are kept: by what is in the files, how they were prepared, and the version of each metric."""

from __future__ import annotations

import hashlib
import io
import json
import os
import secrets
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_CHUNK_BYTES = 1 << 20


@lru_cache(maxsize=64)
def _hash_of(path: Path, size_bytes: int, modified_ns: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def content_hash(path: Path | None) -> str:
    """The SHA-256 of a file; its path, and that it cannot be read, for want of it."""
    if path is None:
        return "none"
    try:
        status = path.stat()
        return _hash_of(path, status.st_size, status.st_mtime_ns)
    except OSError:
        return f"unreadable: {path}"


def key_of(parts: Iterable[str]) -> str:
    """One name for everything that a score depends on."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Cache:
    """A folder of scores. Each entry appears whole or not at all, so runs may share the folder."""

    folder: Path

    def read(self, key: str) -> dict[str, Any]:
        """What is known under `key`; an entry that is damaged is as good as none."""
        with suppress(OSError, ValueError):
            known = json.loads(self._path(key, ".json").read_text(encoding="utf-8"))
            if isinstance(known, dict):
                return known
        return {}

    def write(self, key: str, values: dict[str, Any]) -> None:
        """Keep `values` under `key`, in place of what was there."""
        self._replace(self._path(key, ".json"), json.dumps(values).encode())

    def read_features(self, key: str) -> NDArray[np.float32] | None:
        """The features (n d) under `key`, or None."""
        with suppress(OSError, ValueError, EOFError):
            features = np.load(self._path(key, ".npy"), allow_pickle=False)
            return features if features.ndim == 2 else None
        return None

    def write_features(self, key: str, features: NDArray[np.floating]) -> None:
        """Keep features (n d), as the networks give them: in single precision."""
        held = io.BytesIO()
        np.save(held, features.astype(np.float32))
        self._replace(self._path(key, ".npy"), held.getvalue())

    def has_features(self, key: str) -> bool:
        """Whether there are features under `key`."""
        return self._path(key, ".npy").is_file()

    def read_picture(self, key: str) -> bytes | None:
        """The JPEG under `key`, or None."""
        with suppress(OSError):
            return self._path(key, ".jpg").read_bytes()
        return None

    def write_picture(self, key: str, jpeg: bytes) -> None:
        """Keep a JPEG."""
        self._replace(self._path(key, ".jpg"), jpeg)

    def _path(self, key: str, suffix: str) -> Path:
        return self.folder / key[:2] / f"{key}{suffix}"

    def _replace(self, path: Path, content: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(3)}.part")
        try:
            part.write_bytes(content)
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
