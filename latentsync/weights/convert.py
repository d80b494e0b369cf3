"""Converts files that others have published into our own safetensors: `latentsync models import`.

A U-Net becomes a checkpoint of kind "unet", a SyncNet one of kind "syncnet", a Whisper encoder one of kind
"whisper" (`checkpoints.py`). What a checkpoint's facts say:

    origin       "released": it wants to be used as the released models are, and not as ours are
    version      of a U-Net: "1.0", "1.5", "1.6", "1.5 or 1.6" (their structure is one) or "stage2_efficient";
                 of a SyncNet: the name of its configuration, "16_pixel_attn" for stable_syncnet.pt
    resolution   side in pixels of the crop that it was trained on; None where the file does not tell
    latents      "sd-vae-ft-mse": whose latents a U-Net works on
    source       file (its name), sha256 and size_bytes of the file that was converted
    global_step  training steps, where the file says so
    licence      of the weights
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from latentsync.audio.whisper import WhisperEncoder
from latentsync.errors import UsageError, WeightsError
from latentsync.files import free_bytes, sha256_of
from latentsync.models.unet import build_unet
from latentsync.runtime import DTYPES
from latentsync.weights.catalog import load_catalog
from latentsync.weights.checkpoints import FORMAT, WHOLE_FILE, check_fit, note_text
from latentsync.weights.fingerprints import describe_unknown, identify
from latentsync.weights.models import RESOLUTION_OF
from latentsync.weights.read import Content, read_content, write_tensors
from latentsync.weights.released import (
    WHISPER_DECODER,
    name_of,
    rename_unet,
    require_unet,
    require_version,
    unet_config_of,
    version_of,
    whisper_name,
    whisper_of,
)

Kind = Literal["unet", "syncnet", "whisper"]
KEPT_BESIDE = ("global_step", "dims")  # they go into what the new file says about itself
SPARE_BYTES = 16 << 20  # of disk, beside the tensors
CONVERTIBLE = "a U-Net, a SyncNet and a Whisper of LatentSync's release can be imported"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportResult:
    """What was converted, with every key accounted for.

    version  of the release, as far as the file tells
    keys     how many tensors were written
    renamed  the key in the new file by the key in the old one, where they differ
    dropped  why, by the key or entry of the old file that has no counterpart in the new one
    """

    kind: Kind
    version: str
    output: Path
    keys: int
    renamed: dict[str, str]
    dropped: dict[str, str]
    dtype: str
    size_bytes: int

    def as_dict(self) -> dict[str, object]:
        """The result in values that JSON can hold."""
        return {**dataclasses.asdict(self), "output": str(self.output)}


@dataclass(frozen=True, slots=True)
class _Source:
    """A file to convert; `name` is the catalogue's for this very file, or for the folder it lies in."""

    path: Path
    content: Content
    sha256: str
    name: str | None


@dataclass(frozen=True, slots=True)
class _Converted:
    """The tensors under their new keys, still in the old file, and the text to write beside them."""

    version: str
    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    renamed: dict[str, str]
    dropped: dict[str, str]


def import_file(
    path: Path,
    *,
    dtype: Literal["fp32", "fp16", "bf16"] = "fp32",
    output: Path | None = None,
    is_forced: bool = False,
) -> ImportResult:
    """Convert the released U-Net, SyncNet or Whisper at `path` to safetensors, which appears whole or not.

    Tensors pass one by one, so little more memory is taken than the largest one needs.

    Args:
        dtype: number format of the new file.
        output: the new file; None: beside the old one, where the VAE and the Whisper are found too.
        is_forced: whether an existing file is replaced.

    Raises:
        UsageError: the output exists, or is the source.
        WeightsError: the file is damaged or another network's, a key is missing or left over, a number does
            not fit `dtype`, or the output cannot be written.
    """
    output = path.with_name(f"{path.stem}-{dtype}.safetensors") if output is None else output
    _check_output(path, output, is_forced=is_forced)
    content = read_content(path)
    kind, convert = _choose(path, content)
    sha256 = sha256_of(path)
    converted = convert(_Source(path, content, sha256, _name_in_catalogue(path, sha256)))
    _check_beside(path, content)
    _check_room(output, converted.tensors, DTYPES[dtype])
    size_bytes = write_tensors(
        output, converted.tensors, converted.metadata, dtype=DTYPES[dtype], source=path
    )
    beside = {key: "is not a weight" for key in content.beside if key not in KEPT_BESIDE}
    return ImportResult(
        kind=kind,
        version=converted.version,
        output=output,
        keys=len(converted.tensors),
        renamed=converted.renamed,
        dropped=converted.dropped | beside,
        dtype=dtype,
        size_bytes=size_bytes,
    )


def _choose(path: Path, content: Content) -> tuple[Kind, Callable[[_Source], _Converted]]:
    keys = content.tensors.keys()
    if content.beside.get("format") == FORMAT:
        raise WeightsError(f"{str(path)!r} is already in the format of this package", hint="use it as it is")
    if "conv_in.weight" in keys and "conv_out.weight" in keys:
        return "unet", _convert_unet
    if "audio_encoder.conv_in.weight" in keys and "visual_encoder.conv_in.weight" in keys:
        return "syncnet", _convert_syncnet
    if any(key.endswith(("encoder.positional_embedding", "encoder.embed_positions.weight")) for key in keys):
        return "whisper", _convert_whisper
    found = identify(content) or describe_unknown(keys)
    raise WeightsError(f"{str(path)!r} is not imported: it {found.what}; {CONVERTIBLE}", hint=found.use)


def _convert_unet(source: _Source) -> _Converted:
    require_unet(source.content, source.path)
    theirs = source.content.tensors
    tensors = rename_unet(theirs)
    config = unet_config_of(tensors, source.path)
    version = version_of(config)
    if source.name in RESOLUTION_OF:
        stated = source.name.removeprefix("latentsync-")
        require_version(config, source.path, stated)
        version = stated
    with torch.device("meta"):
        check_fit(build_unet(config), tensors, source.path)
    facts = _facts(source, version, licence="openrail" if version == "1.0" else "openrail++")
    facts |= {
        "resolution": RESOLUTION_OF.get(f"latentsync-{version}"),
        "latents": "sd-vae-ft-mse",
    }
    names = {key: name_of(key) for key in theirs}
    return _Converted(
        version,
        tensors,
        note_text("unet", config, facts),
        {key: name for key, name in names.items() if name is not None and name != key},
        {key: "equals the first attention's table" for key, name in names.items() if name is None},
    )


def _convert_syncnet(source: _Source) -> _Converted:
    from latentsync.models.syncnet import build_syncnet
    from latentsync.weights.judges import RELEASED_SYNCNETS, config_of

    tensors = source.content.tensors
    for key in tensors:
        if "conv" in key and key.endswith(".weight") and tensors[key].ndim != 4:
            raise WeightsError(f"{key!r} in {str(source.path)!r} is not a convolution", hint=WHOLE_FILE)
    config = config_of(tensors, source.path)
    with torch.device("meta"):
        check_fit(build_syncnet(config), tensors, source.path)  # their keys are ours
    version = next(name for name, known in RELEASED_SYNCNETS.items() if known == config)
    facts = _facts(source, version, licence="openrail++" if version == "16_pixel_attn" else "openrail")
    facts["resolution"] = config.resolution
    return _Converted(version, tensors, note_text("syncnet", config, facts), {}, {})


def _convert_whisper(source: _Source) -> _Converted:
    tensors, dims = whisper_of(source.content, source.path)
    names = {key: whisper_name(key) for key in source.content.tensors if not key.startswith(WHISPER_DECODER)}
    with torch.device("meta"):
        encoder = WhisperEncoder(dims).transformer
    check_fit(encoder, tensors, source.path)
    version = {384: "tiny", 768: "small"}.get(dims.n_audio_state, f"of width {dims.n_audio_state}")
    metadata = note_text("whisper", dims, _facts(source, version, licence="MIT"))
    decoder = [key for key in source.content.tensors if key not in names]
    return _Converted(
        version,
        tensors,
        metadata,
        {key: name for key, name in names.items() if key != name},
        {key: "belongs to the decoder, which writes text" for key in decoder},
    )


def _facts(source: _Source, version: str, *, licence: str) -> dict[str, Any]:
    step = source.content.beside.get("global_step")
    return {
        "origin": "released",
        "version": version,
        "source": {
            "file": source.path.name,
            "sha256": source.sha256,
            "size_bytes": source.path.stat().st_size,
        },
        "global_step": step if type(step) is int else None,
        "licence": licence,
    }


def _name_in_catalogue(path: Path, sha256: str) -> str | None:
    """By the hash, which is certain; else by the folder, where `latentsync models pull` puts it."""
    catalogue = load_catalog()
    for name, entry in catalogue.items():
        if entry.sha256 == sha256:
            return name
    folder = path.resolve().parent.name
    return folder if folder in catalogue else None


def _check_output(path: Path, output: Path, *, is_forced: bool) -> None:
    if not output.exists():
        return
    if path.exists() and os.path.samefile(path, output):
        raise UsageError(
            f"'{output}' is the file to convert, which is never overwritten", hint="name another with -o"
        )
    if output.is_dir():
        raise UsageError(f"'{output}' is a folder", hint="name a file in it with -o")
    if not is_forced:
        raise UsageError(f"'{output}' exists", hint="use --force to replace it, or name another with -o")


def _check_beside(path: Path, content: Content) -> None:
    """Refuse a file with tensors beside the network's: which of them were meant is not for us to say."""
    for key, value in content.beside.items():
        inside = value.values() if isinstance(value, Mapping) else [value]
        if any(isinstance(item, (Tensor, Mapping)) for item in inside):
            message = f"{str(path)!r} holds {key!r} with further tensors beside the network's"
            raise WeightsError(
                message, hint="give a file with the network's weights alone, as it was released"
            )


def _check_room(output: Path, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> None:
    sizes = (t.numel() * (dtype if t.is_floating_point() else t.dtype).itemsize for t in tensors.values())
    needed_bytes = sum(sizes) + SPARE_BYTES
    if free_bytes(output) < needed_bytes:
        room = f"{needed_bytes / 1e6:.0f} MB, and {free_bytes(output) / 1e6:.0f} MB are free there"
        raise WeightsError(
            f"'{output}' needs {room}", hint="free some space, or write to another disk with -o"
        )
