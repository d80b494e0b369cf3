"""The manifest of a processed data set: what became of every source, and which clips to train on."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

from latentsync import __version__
from latentsync.errors import MediaError
from latentsync.media.probe import require_video

PARQUET, JSON_LINES = "manifest.parquet", "decisions.jsonl"
Split = Literal["train", "validation"]
CLIPS, FEATURES = "clips", "features"
_VALIDATION_SHARE = 0.05  # of a folder without a manifest
_LONGEST_NAME_BYTES = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What became of a stretch of a source, or of a whole source.

    source           path within the raw folder, as `source_name` writes it
    clip             path of the written mp4 within the out folder; None when nothing was written
    outcome          kept, dropped (a step said why), failed (the run could not finish this source)
    reason           a fixed word of `latentsync.preprocess.step.REASONS`; empty for a kept clip
    start_s, end_s   the span in the source, after the first frame; None for a whole source
    frames, fps      of the clip
    resolution       side of the crop in pixels
    face_px          side of the face's box, brows to chin, in pixels of the source: the smallest in the clip
    face_yaw         how far the nose lies beside the middle of the eyes, in eye distances; 0 is frontal
    other_faces      share of the looks, 0..1, that saw another face of comparable size
    offset_frames    above 0: the speech was early by so many frames
    offset_applied   whether the speech of the clip was moved by that
    confidence       of the judge; thresholds differ from judge to judge
    quality          by `quality_measure`: "hyperiqa" (0..100) or "sharpness"
    blockiness       1 is none; only where there is no HyperIQA
    person, split    who by the recipe's pattern, else the source; where the clip belongs
    sha256           of the clip file
    """

    source: str
    outcome: Literal["kept", "dropped", "failed"]
    reason: str = ""
    detail: str = ""
    clip: str | None = None
    start_s: float | None = None
    end_s: float | None = None
    frames: int | None = None
    resolution: int | None = None
    fps: float | None = None
    face_px: float | None = None
    face_yaw: float | None = None
    other_faces: float | None = None
    offset_frames: int | None = None
    confidence: float | None = None
    judge: str | None = None
    offset_applied: bool = False
    quality: float | None = None
    quality_measure: str | None = None
    blockiness: float | None = None
    person: str | None = None
    split: Split | None = None
    sha256: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestClip:
    """A clip to train on. `name` is its path within the folder of the manifest; `path` is where it is.

    A folder without a manifest knows no hashes.
    """

    path: Path
    name: str
    source: str
    frames: int
    resolution: int
    split: Split
    person: str
    sha256: str | None
    offset_frames: int | None = None
    confidence: float | None = None
    quality: float | None = None


def source_name(path: Path, raw_dir: Path) -> str:
    """The path of a source within the raw folder, as text that is valid anywhere.

    Bytes of a name that are no UTF-8 become \\xAB, and a backslash becomes two, so that no two names meet.

    >>> source_name(Path("/raw/a/b c.mp4"), Path("/raw"))
    'a/b c.mp4'
    """
    text = path.relative_to(raw_dir).as_posix().replace("\\", "\\\\")
    return "".join(
        f"\\x{ord(letter) - 0xDC00:02x}" if 0xDC80 <= ord(letter) <= 0xDCFF else letter for letter in text
    )


def clip_folder(out_dir: Path, source: str) -> Path:
    """Where the clips of one source lie, and of no other.

    The file systems' limit for a name is 255 bytes: of a longer one the end is replaced by its hash.
    """
    return out_dir.joinpath(CLIPS, *(_short_name(part) for part in source.split("/")))


def features_path(out_dir: Path, sha256: str) -> Path:
    """Where features of the clip with this hash lie, but for the suffix: add `.mel.safetensors`, say."""
    return out_dir / FEATURES / sha256[:2] / sha256


def person_of(source: str, *, by: Literal["person", "source"], pattern: str) -> str:
    """Who is seen in a source: what the one group of `pattern` finds in its name, else the source itself.

    >>> person_of("vox/id00017/x/1.mp4", by="person", pattern="(id[0-9]{5})/")
    'id00017'
    """
    found = re.search(pattern, source) if by == "person" else None
    return found[1] if found and found[1] else source


def split_of(person: str, *, validation_share: float) -> Split:
    """Where all clips of a person belong. It depends on the name only, so that more sources move none."""
    digest = hashlib.sha256(f"split/{person}".encode()).digest()
    return "validation" if int.from_bytes(digest[:8], "big") / 2**64 < validation_share else "train"


def write_manifest(out_dir: Path, decisions: Iterable[Decision], *, recipe: str = "") -> None:
    """Write `manifest.parquet` with the clips that were kept, and a line of `decisions.jsonl` for everything.

    Equal decisions make equal bytes, in whatever order they come. Both files appear whole or not at all.

    Args:
        out_dir: the folder of the clips.
        decisions: of all sources.
        recipe: the resolved recipe as TOML; it goes into the manifest with the version of this package.
    """
    ordered = sorted(decisions, key=_place)
    lines = (json.dumps(asdict(decision), ensure_ascii=False) + "\n" for decision in ordered)
    with _replacing(out_dir / JSON_LINES) as part:
        part.write_text("".join(lines), encoding="utf-8", newline="\n")
    _write_parquet(out_dir / PARQUET, [one for one in ordered if one.outcome == "kept"], recipe)


def read_decisions(out_dir: Path) -> list[Decision]:
    """Read `decisions.jsonl` back.

    Raises:
        MediaError: it is not there, or a line is not one that `write_manifest` writes.
    """
    path = out_dir / JSON_LINES
    try:
        lines = path.read_text(encoding="utf-8").split("\n")[:-1]  # other line ends may be part of a name
        return [Decision(**json.loads(line)) for line in lines]
    except (OSError, UnicodeDecodeError, ValueError, TypeError) as error:
        raise MediaError(
            f"'{path}': cannot be read ({error})", hint="make it again with 'latentsync preprocess'"
        ) from error


def read_manifest(path: Path) -> list[ManifestClip]:
    """The clips to train on, in order.

    Args:
        path: an out folder of preprocessing, its `manifest.parquet`, or any folder of processed .mp4 files;
            in the last case every clip is its own person.

    Raises:
        MediaError: there is nothing of the kind, a column is missing, or a clip that is listed is not there.
    """
    parquet = path / PARQUET if path.is_dir() else path
    if path.is_dir() and not parquet.is_file():
        return _clips_of_folder(path)
    clips = [_manifest_clip(row, parquet) for row in _read_parquet(parquet)]
    if not clips:
        raise MediaError(f"'{parquet}' lists no clip", hint="see decisions.jsonl beside it for the reasons")
    return clips


def _short_name(part: str) -> str:
    encoded = part.encode()
    if len(encoded) <= _LONGEST_NAME_BYTES:
        return part
    kept = encoded[: _LONGEST_NAME_BYTES - 33].decode(errors="ignore")
    return f"{kept}~{hashlib.sha256(encoded).hexdigest()[:32]}"


def _place(decision: Decision) -> tuple[str, float, float, str]:
    start_s = -1.0 if decision.start_s is None else decision.start_s
    return decision.source, start_s, decision.end_s or 0.0, json.dumps(asdict(decision))


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    part = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(3)}.part")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _write_parquet(path: Path, kept: list[Decision], recipe: str) -> None:
    import pyarrow
    from pyarrow import parquet

    metadata = {"latentsync.version": __version__, "latentsync.recipe": recipe}
    kinds = get_type_hints(Decision)
    columns = [pyarrow.field(one.name, _arrow_type(kinds[one.name])) for one in fields(Decision)]
    schema = pyarrow.schema(columns, metadata=metadata)
    table = pyarrow.Table.from_pylist([asdict(decision) for decision in kept], schema=schema)
    with _replacing(path) as part, part.open("wb") as file:  # not by name: that need not be UTF-8
        parquet.write_table(table, file)


def _arrow_type(kind: Any) -> Any:
    import pyarrow

    kinds = {int: pyarrow.int64(), float: pyarrow.float64(), bool: pyarrow.bool_()}
    return next((kinds[option] for option in (kind, *get_args(kind)) if option in kinds), pyarrow.string())


def _read_parquet(path: Path) -> list[dict[str, Any]]:
    import pyarrow
    from pyarrow import parquet

    try:
        with path.open("rb") as file:
            rows: list[dict[str, Any]] = parquet.ParquetFile(file).read().to_pylist()
    except FileNotFoundError as error:
        raise MediaError(
            f"'{path}' does not exist", hint="give the out folder of 'latentsync preprocess'"
        ) from error
    except (pyarrow.ArrowException, OSError) as error:
        raise MediaError(
            f"'{path}' is not a manifest that can be read ({error})",
            hint="make it again with 'latentsync preprocess'",
        ) from error
    return rows


def _manifest_clip(row: dict[str, Any], parquet: Path) -> ManifestClip:
    for column in ("clip", "source", "frames", "resolution", "split", "person", "sha256"):
        if row.get(column) is None:
            raise MediaError(
                f"'{parquet}': column '{column}' is missing or empty",
                hint="make the manifest again with 'latentsync preprocess'",
            )
    path = parquet.parent / row["clip"]
    if not path.is_file():
        raise MediaError(
            f"'{parquet}': column 'clip' lists '{row['clip']}', which is not there",
            hint="copy the clips to where the manifest is, or run 'latentsync preprocess' again",
        )
    optional = {name: row.get(name) for name in ("offset_frames", "confidence", "quality")}
    return ManifestClip(
        path=path,
        name=row["clip"],
        source=row["source"],
        frames=row["frames"],
        resolution=row["resolution"],
        split=row["split"],
        person=row["person"],
        sha256=row["sha256"],
        **optional,
    )


def _clips_of_folder(folder: Path) -> list[ManifestClip]:
    paths = sorted(path for path in folder.rglob("*.mp4") if path.is_file() and ".part" not in path.suffixes)
    if not paths:
        raise MediaError(
            f"'{folder}' has neither a {PARQUET} nor any .mp4 file",
            hint="give the out folder of 'latentsync preprocess'",
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
