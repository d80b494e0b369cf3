"""The manifest of a processed data set: the outcome of every source, and the clips to train on."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, get_args, get_type_hints

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from latentsync import __version__
from latentsync.errors import MediaError
from latentsync.files import damaged_line, integer_from, json_lines, open_regular, whole_or_nothing
from latentsync.media.probe import require_video

PARQUET, JSON_LINES = "manifest.parquet", "decisions.jsonl"
Split = Literal["train", "validation"]
CLIPS, FEATURES = "clips", "features"
_VALIDATION_SHARE = 0.05  # of a folder without a manifest
_LONGEST_NAME_BYTES = 200
_MAKE_AGAIN = "make the manifest again with 'latentsync preprocess'"
_MOST_BYTES = 1 << 32  # of a manifest; a million clips take 0.1 GB
_BATCH_ROWS = 256  # few, because a small file can repeat a long text in every row


def _below(name: str) -> str:
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\0" in name:
        raise ValueError("is not a path below the folder")
    if max(len(part.encode()) for part in parts) > 255 or len(name.encode()) > 4095:
        raise ValueError("is too long for a path")
    return name


# Types for reading back: another program may have written or changed the files. Writing does not check.
Text = Annotated[str, Field(strict=True, max_length=1 << 16)]
Number = Annotated[float, Field(strict=True)]
Seconds = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(strict=True, ge=0, le=1 << 40)]
Frames = Annotated[int, Field(strict=True, ge=-(1 << 40), le=1 << 40)]
Flag = Annotated[bool, Field(strict=True)]
ClipName = Annotated[str, Field(strict=True), AfterValidator(_below)]
Sha256 = Annotated[str, Field(strict=True, pattern="^[0-9a-f]{64}$")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The outcome of a span of a source, or of a whole source.

    source           path within the raw folder, as `source_name` writes it
    clip             path of the written mp4 within the output folder; None if none was written
    outcome          kept, dropped (a step has a reason), failed (the run could not finish this source)
    reason           a word of `latentsync.preprocess.step.REASONS`; empty for a kept clip
    start_s, end_s   the span in the source, after the first frame; None for a whole source
    frames, fps      of the clip
    resolution       side of the crop in pixels
    face_px          side of the face's box, brows to chin, in pixels of the source: the smallest in the clip
    face_yaw         distance of the nose from the middle of the eyes, in eye distances; 0 is frontal
    other_faces      share of the searched frames, 0..1, with another face of comparable size
    offset_frames    by how many frames the speech was early; negative: late
    offset_applied   whether the speech of the clip was shifted by that
    confidence       of the judge; thresholds differ between judges
    quality          by `quality_measure`: "hyperiqa" (0..100) or "sharpness"
    blockiness       1 is none; only without HyperIQA
    person, split    by the recipe's pattern, else the source; the split of the clip
    sha256           of the clip file
    """

    source: Text
    outcome: Literal["kept", "dropped", "failed"]
    reason: Text = ""
    detail: Text = ""
    clip: ClipName | None = None
    start_s: Seconds | None = None
    end_s: Seconds | None = None
    frames: Count | None = None
    resolution: Count | None = None
    fps: Seconds | Count | None = None  # a whole number is read back as one: the same bytes again
    face_px: Number | None = None
    face_yaw: Number | None = None
    other_faces: Number | None = None
    offset_frames: Frames | None = None
    confidence: Number | None = None
    judge: Text | None = None
    offset_applied: Flag = False
    quality: Number | None = None
    quality_measure: Text | None = None
    blockiness: Number | None = None
    person: Text | None = None
    split: Split | None = None
    sha256: Sha256 | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestClip:
    """A clip to train on. `name` is its path within the folder of the manifest.

    A folder without a manifest has no hashes.
    """

    path: Path
    name: ClipName
    source: Text
    frames: Annotated[Count, Field(ge=1)]
    resolution: Annotated[Count, Field(ge=1)]
    split: Split
    person: Text
    sha256: Sha256 | None
    offset_frames: Frames | None = None
    confidence: Number | None = None
    quality: Number | None = None


_DECISION = TypeAdapter(Decision)
_CLIP = TypeAdapter(ManifestClip)
_REQUIRED = ("clip", "source", "frames", "resolution", "split", "person", "sha256")
_OPTIONAL = ("offset_frames", "confidence", "quality")


def source_name(path: Path, raw_dir: Path) -> str:
    """The path of a source within the raw folder, as text that is valid on every machine.

    Bytes that are not UTF-8 become \\xAB, and a backslash becomes two, so that names stay distinct.

    >>> source_name(Path("/raw/a/b c.mp4"), Path("/raw"))
    'a/b c.mp4'
    """
    text = path.relative_to(raw_dir).as_posix().replace("\\", "\\\\")
    return "".join(
        f"\\x{ord(letter) - 0xDC00:02x}" if 0xDC80 <= ord(letter) <= 0xDCFF else letter for letter in text
    )


def clip_folder(out_dir: Path, source: str) -> Path:
    """The folder of the clips of one source.

    It keeps the suffix of the source, so that `a.mp4` and `a.mpg` have a folder each. File systems limit a
    name to 255 bytes: the end of a longer one is replaced by its hash.
    """
    return out_dir.joinpath(CLIPS, *(_short_name(part) for part in source.split("/")))


def features_path(out_dir: Path, sha256: str) -> Path:
    """The path of the features of the clip with this hash, without a suffix such as `.mel.safetensors`.

    Raises:
        ValueError: `sha256` is not 64 hex digits, so it could lead anywhere.
    """
    if not re.fullmatch("[0-9a-f]{64}", sha256):
        raise ValueError(f"'{sha256}' is not a SHA-256")
    return out_dir / FEATURES / sha256[:2] / sha256


def person_of(source: str, *, by: Literal["person", "source"], pattern: str) -> str:
    """The person in a source: what the group of `pattern` matches in its name, else the source itself.

    >>> person_of("vox/id00017/x/1.mp4", by="person", pattern="(id[0-9]{5})/")
    'id00017'
    """
    found = re.search(pattern, source) if by == "person" else None
    return found[1] if found and found[1] else source


def split_of(person: str, *, validation_share: float) -> Split:
    """The split of all clips of a person. It depends only on the name, so adding sources moves nobody."""
    return "validation" if integer_from(f"split/{person}") / 2**64 < validation_share else "train"


def write_manifest(out_dir: Path, decisions: Iterable[Decision], *, recipe: str = "") -> None:
    """Write `manifest.parquet` with the clips that were kept, and a line of `decisions.jsonl` for everything.

    Equal decisions give equal bytes, in any order. Both files appear whole or not at all.

    Args:
        out_dir: the folder of the clips.
        decisions: of all sources.
        recipe: the resolved recipe as TOML; it goes into the manifest with the version of this package.
    """
    ordered = sorted(decisions, key=_order)
    lines = (json.dumps(asdict(decision), ensure_ascii=False) + "\n" for decision in ordered)
    with whole_or_nothing(out_dir / JSON_LINES) as part:
        part.write_text("".join(lines), encoding="utf-8", newline="\n")
    _write_parquet(out_dir / PARQUET, [one for one in ordered if one.outcome == "kept"], recipe)


def read_decisions(out_dir: Path) -> list[Decision]:
    """Read `decisions.jsonl` back.

    Raises:
        MediaError: it does not exist, or a line is not one that `write_manifest` writes.
    """
    path = out_dir / JSON_LINES
    try:
        return [_checked(_DECISION, line, path, number) for number, line in json_lines(path)]
    except OSError as error:
        raise MediaError(
            f"'{path}': cannot be read ({error.strerror})", hint="make it again with 'latentsync preprocess'"
        ) from error


def _checked(adapter: TypeAdapter[Decision], values: Any, path: Path, number: int) -> Decision:
    try:
        return adapter.validate_python(values)
    except ValidationError as error:
        raise damaged_line(path, number, fault_of(error)) from error


def fault_of(error: ValidationError) -> str:
    """The first fault that a schema found, as one phrase: the key, what is wrong, and the value."""
    fault = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in fault["loc"])
    value = repr(fault["input"])
    shown = value if len(value) <= 60 else f"{value[:57]}..."
    what = fault["msg"].removeprefix("Value error, ").replace("Input should", "should")
    return f"'{key}' {what}, got {shown}" if key else f"{what}, got {shown}"


def read_manifest(path: Path) -> list[ManifestClip]:
    """The clips to train on, in order.

    Args:
        path: an output folder of preprocessing, its `manifest.parquet`, or a folder of processed .mp4 files;
            in the last case every clip is its own person.

    Raises:
        MediaError: no manifest or clip exists, a column is missing or has the wrong type, or a listed clip
            does not exist, or not below the folder.
    """
    parquet = path / PARQUET if path.is_dir() else path
    if path.is_dir() and not parquet.is_file():
        return _clips_of_folder(path)
    clips: dict[str, ManifestClip] = {}
    _real_folder.cache_clear()
    for number, row in enumerate(_read_parquet(parquet)):
        clip = _manifest_clip(row, parquet, number)
        if clip.name in clips:
            raise MediaError(f"'{parquet}', row {number}: lists '{clip.name}' again", hint=_MAKE_AGAIN)
        clips[clip.name] = clip
    if not clips:
        raise MediaError(f"'{parquet}' lists no clip", hint="see decisions.jsonl next to it for the reasons")
    return list(clips.values())


def _short_name(part: str) -> str:
    encoded = part.encode()
    if len(encoded) <= _LONGEST_NAME_BYTES:
        return part
    kept = encoded[: _LONGEST_NAME_BYTES - 33].decode(errors="ignore")
    return f"{kept}~{hashlib.sha256(encoded).hexdigest()[:32]}"


def _order(decision: Decision) -> tuple[str, float, float, str]:
    start_s = -1.0 if decision.start_s is None else decision.start_s
    return decision.source, start_s, decision.end_s or 0.0, json.dumps(asdict(decision))


def _write_parquet(path: Path, kept: list[Decision], recipe: str) -> None:
    import pyarrow
    from pyarrow import parquet

    metadata = {"latentsync.version": __version__, "latentsync.recipe": recipe}
    kinds = get_type_hints(Decision)
    columns = [pyarrow.field(one.name, _arrow_type(kinds[one.name])) for one in fields(Decision)]
    schema = pyarrow.schema(columns, metadata=metadata)
    table = pyarrow.Table.from_pylist([asdict(decision) for decision in kept], schema=schema)
    with whole_or_nothing(path) as part, part.open("wb") as file:  # not by name: that need not be UTF-8
        parquet.write_table(table, file)


def _arrow_type(kind: Any) -> Any:
    import pyarrow

    kinds = {int: pyarrow.int64(), float: pyarrow.float64(), bool: pyarrow.bool_()}
    return next((kinds[option] for option in (kind, *get_args(kind)) if option in kinds), pyarrow.string())


def _read_parquet(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a manifest, with the columns of a `ManifestClip`; memory is bounded."""
    import pyarrow
    from pyarrow import parquet

    try:
        with open_regular(path, most_bytes=_MOST_BYTES) as stream:
            file = parquet.ParquetFile(stream)
            columns = _check_columns(file.schema_arrow, path)
            groups = [file.metadata.row_group(index) for index in range(file.num_row_groups)]
            stated_bytes = sum(group.total_byte_size for group in groups)
            if stated_bytes > _MOST_BYTES:
                raise MediaError(f"'{path}': states {stated_bytes:,} bytes of rows", hint=_MAKE_AGAIN)
            for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=columns):
                yield from batch.to_pylist()
    except FileNotFoundError as error:
        raise MediaError(
            f"'{path}' does not exist", hint="give the output folder of 'latentsync preprocess'"
        ) from error
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise MediaError(f"'{path}' cannot be read as a manifest ({reason})", hint=_MAKE_AGAIN) from error


def _check_columns(schema: Any, path: Path) -> list[str]:
    """The columns to read; one of the wrong type is refused before anything of it is decoded."""
    kinds = get_type_hints(Decision)
    columns = [name for name in (*_REQUIRED, *_OPTIONAL) if schema.get_field_index(name) >= 0]
    for name in columns:
        expected, found = _arrow_type(kinds[name]), schema.field(name).type
        if not _is_like(found, expected):
            raise MediaError(
                f"'{path}': column '{name}' has type {found}, expected {expected}", hint=_MAKE_AGAIN
            )
    return columns


def _is_like(found: Any, expected: Any) -> bool:
    """Whether values of one Arrow type are read as values of the other."""
    from pyarrow import types

    if types.is_dictionary(found):
        found = found.value_type
    if types.is_string(expected):
        return bool(types.is_string(found) or types.is_large_string(found) or types.is_null(found))
    if types.is_floating(expected) and types.is_floating(found):
        return True
    return bool(types.is_integer(found) or types.is_null(found))


def _manifest_clip(row: dict[str, Any], parquet: Path, number: int) -> ManifestClip:
    for column in _REQUIRED:
        if row.get(column) is None:
            raise MediaError(f"'{parquet}': column '{column}' is missing or empty", hint=_MAKE_AGAIN)
    values = {name: row.get(name) for name in (*_REQUIRED[1:], *_OPTIONAL)}
    try:
        clip = _CLIP.validate_python({**values, "name": row["clip"], "path": parquet.parent / row["clip"]})
    except ValidationError as error:
        fault = fault_of(error).replace("'name'", "'clip'")
        raise MediaError(f"'{parquet}', row {number}: {fault}", hint=_MAKE_AGAIN) from error
    if not clip.path.is_file():
        raise MediaError(
            f"'{parquet}': column 'clip' lists '{clip.name}', which does not exist",
            hint="copy the clips to the folder of the manifest, or run 'latentsync preprocess' again",
        )
    if not _is_below(clip.path, parquet.parent):
        raise MediaError(
            f"'{parquet}': column 'clip' lists '{clip.name}', a link that leads outside the folder",
            hint="copy the clips into the folder of the manifest",
        )
    return clip


def _is_below(path: Path, folder: Path) -> bool:
    """Whether a path leads below `folder`, through whatever links."""
    real = os.path.realpath(path) if path.is_symlink() else _real_folder(path.parent)
    above = _real_folder(folder)
    return os.path.commonpath([above, real]) == above


@lru_cache(maxsize=1 << 16)  # a source has many clips
def _real_folder(folder: Path) -> str:
    return os.path.realpath(folder)


def _clips_of_folder(folder: Path) -> list[ManifestClip]:
    paths = sorted(path for path in folder.rglob("*.mp4") if path.is_file() and ".part" not in path.suffixes)
    if not paths:
        raise MediaError(
            f"'{folder}' has neither a {PARQUET} nor any .mp4 file",
            hint="give the output folder of 'latentsync preprocess'",
        )
    clips = []
    for path in paths:
        info = require_video(path)
        name = source_name(path, folder)
        clips.append(
            ManifestClip(
                path=path,
                name=name,
                source=name,
                frames=info.frames or round(info.duration_s * float(info.fps)),
                resolution=info.height,
                split=split_of(name, validation_share=_VALIDATION_SHARE),
                person=name,
                sha256=None,
            )
        )
    return clips
