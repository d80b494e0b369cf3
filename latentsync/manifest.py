"""The manifest of a processed data set: the outcome of every source, and the clips to train on."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

from latentsync import __version__
from latentsync.errors import MediaError
from latentsync.files import whole_or_nothing
from latentsync.media.probe import require_video
from latentsync.runtime import integer_from

PARQUET, JSON_LINES = "manifest.parquet", "decisions.jsonl"
Split = Literal["train", "validation"]
CLIPS, FEATURES = "clips", "features"
_VALIDATION_SHARE = 0.05  # of a folder without a manifest
_LONGEST_NAME_BYTES = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The outcome of a span of a source, or of a whole source.

    source           path within the raw folder, as `source_name` writes it
    clip             path of the written mp4 within the out folder; None if none was written
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
    """A clip to train on. `name` is its path within the folder of the manifest.

    A folder without a manifest has no hashes.
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
    """The path of the features of the clip with this hash, without a suffix such as `.mel.safetensors`."""
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
        lines = path.read_text(encoding="utf-8").split("\n")[:-1]  # names may contain other line ends
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
        MediaError: no manifest or clip exists, a column is missing, or a listed clip does not exist.
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
            f"'{path}' cannot be read as a manifest ({error})",
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
            f"'{parquet}': column 'clip' lists '{row['clip']}', which does not exist",
            hint="copy the clips to the folder of the manifest, or run 'latentsync preprocess' again",
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
