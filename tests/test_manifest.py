"""The manifest: written the same way every time, read back, and what it refuses."""

from __future__ import annotations

import os
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from latentsync.errors import MediaError
from latentsync.manifest import (
    Decision,
    clip_folder,
    features_path,
    person_of,
    read_decisions,
    read_manifest,
    source_name,
    split_of,
    write_manifest,
)

KEPT = Decision(
    source='b/odd "name"\n\u2028.mp4',
    outcome="kept",
    clip="clips/b/1.mp4",
    start_s=5.0,
    end_s=10.0,
    frames=125,
    resolution=256,
    fps=25,
    offset_frames=-2,
    confidence=4.5,
    person="b",
    split="train",
    sha256="ab" * 32,
)
EARLIER = replace(KEPT, clip="clips/b/0.mp4", start_s=0.0, end_s=5.0)
DROPPED = Decision(source="a.mp4", outcome="dropped", reason="no_audio")
ALL = [KEPT, EARLIER, DROPPED]


@pytest.fixture
def out_dir(tmp_path: Path) -> Path:
    (tmp_path / "clips/b").mkdir(parents=True)
    for name in ("0.mp4", "1.mp4"):
        (tmp_path / "clips/b" / name).write_bytes(b"clip")
    return tmp_path


def test_equal_decisions_make_equal_bytes(out_dir: Path) -> None:
    contents = []
    for decisions in (ALL, ALL[::-1]):
        write_manifest(out_dir, decisions, recipe="seed = 1")
        contents.append([(out_dir / name).read_bytes() for name in ("manifest.parquet", "decisions.jsonl")])
    assert contents[0] == contents[1]
    assert not list(out_dir.glob("*.part"))


def test_every_decision_is_a_line_and_kept_clips_are_rows(out_dir: Path) -> None:
    write_manifest(out_dir, ALL, recipe="seed = 1")
    assert read_decisions(out_dir) == [DROPPED, EARLIER, KEPT]
    before = (out_dir / "decisions.jsonl").read_bytes()
    write_manifest(out_dir, read_decisions(out_dir))
    assert (out_dir / "decisions.jsonl").read_bytes() == before
    first, second = read_manifest(out_dir)
    assert (first.name, second.name) == ("clips/b/0.mp4", "clips/b/1.mp4")
    assert second.path == out_dir / "clips/b/1.mp4" and second.source == KEPT.source
    assert (second.frames, second.resolution, second.split, second.person) == (125, 256, "train", "b")
    assert (second.sha256, second.offset_frames, second.confidence) == ("ab" * 32, -2, 4.5)
    assert read_manifest(out_dir / "manifest.parquet") == [first, second]


def test_the_folders_name_need_not_be_utf8(tmp_path: Path) -> None:
    out = tmp_path / os.fsdecode(b"\xff")
    out.mkdir()
    write_manifest(out, [])
    assert parquet.ParquetFile((out / "manifest.parquet").open("rb")).read().num_rows == 0
    with pytest.raises(MediaError, match="lists no clip"):
        read_manifest(out)


def test_the_recipe_and_the_version_are_in_it(out_dir: Path) -> None:
    write_manifest(out_dir, ALL, recipe="seed = 7")
    metadata = parquet.read_schema(out_dir / "manifest.parquet").metadata
    assert metadata[b"latentsync.recipe"] == b"seed = 7" and metadata[b"latentsync.version"]


def test_columns_keep_their_types_when_there_are_no_clips(out_dir: Path) -> None:
    write_manifest(out_dir, ALL)
    full = parquet.read_schema(out_dir / "manifest.parquet")
    write_manifest(out_dir, [DROPPED])
    assert parquet.read_schema(out_dir / "manifest.parquet").equals(full)
    with pytest.raises(MediaError, match="lists no clip"):
        read_manifest(out_dir)


def test_what_is_refused(out_dir: Path) -> None:
    with pytest.raises(MediaError, match="does not exist"):
        read_manifest(out_dir / "none.parquet")
    with pytest.raises(MediaError, match="cannot be read"):
        read_decisions(out_dir)
    (out_dir / "bad.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(MediaError, match="cannot be read as a manifest"):
        read_manifest(out_dir / "bad.parquet")
    parquet.write_table(pyarrow.table({"clip": ["a.mp4"]}), out_dir / "few.parquet")
    with pytest.raises(MediaError, match="column 'source' is missing"):
        read_manifest(out_dir / "few.parquet")
    write_manifest(out_dir, ALL)
    (out_dir / "clips/b/1.mp4").unlink()
    with pytest.raises(MediaError, match="which does not exist"):
        read_manifest(out_dir)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("clip", "../outside.mp4", "row 0: 'clip' is not a path below the folder"),
        ("clip", "/etc/hosts", "row 0: 'clip' is not a path below the folder"),
        ("clip", "clips/b/link.mp4", "a link that leads outside the folder"),
        ("clip", "a\0.mp4", "row 0: 'clip' is not a path below the folder"),
        ("clip", "a" * 300, "row 0: 'clip' is too long for a path"),
        ("clip", b"a", "column 'clip' has type binary, expected string"),
        ("clip", "clips/b/1.mp4", "row 1: lists 'clips/b/1.mp4' again"),
        ("sha256", "../../outside", "row 0: 'sha256' String should match pattern"),
        ("sha256", 5, "column 'sha256' has type int64, expected string"),
        ("frames", {"a": 1}, "column 'frames' has type struct<a: int64>, expected int64"),
        ("frames", 0, "row 0: 'frames' should be greater than or equal to 1, got 0"),
        ("resolution", 1.5, "column 'resolution' has type double, expected int64"),
        ("split", "test", "row 0: 'split' should be 'train' or 'validation', got 'test'"),
        ("confidence", "high", "column 'confidence' has type string, expected double"),
    ],
)
def test_rows_that_another_program_changed_are_refused(
    column: str, value: object, message: str, out_dir: Path
) -> None:
    (out_dir.parent / "outside.mp4").touch()
    (out_dir / "clips/b/link.mp4").symlink_to(out_dir.parent / "outside.mp4")
    rows = [{**asdict(one), column: value} for one in (EARLIER, KEPT)]
    parquet.write_table(pyarrow.Table.from_pylist(rows), out_dir / "manifest.parquet")
    with pytest.raises(MediaError) as refused:
        read_manifest(out_dir)
    assert message in str(refused.value) and "\n" not in str(refused.value) and refused.value.hint


def test_pandas_types_are_read(out_dir: Path) -> None:
    table = pyarrow.Table.from_pylist([asdict(KEPT)])
    for name, kind in {
        "clip": pyarrow.large_string(),
        "source": pyarrow.dictionary(pyarrow.int8(), pyarrow.string()),
        "frames": pyarrow.int32(),
        "confidence": pyarrow.float32(),
        "quality": pyarrow.null(),
    }.items():
        table = table.set_column(table.schema.get_field_index(name), name, table[name].cast(kind))
    parquet.write_table(table, out_dir / "manifest.parquet")
    assert [clip.name for clip in read_manifest(out_dir)] == ["clips/b/1.mp4"]


def test_a_pipe_is_no_manifest(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "manifest.parquet")
    with pytest.raises(MediaError, match="is not a regular file"):
        read_manifest(tmp_path / "manifest.parquet")


def test_only_a_hash_names_features(tmp_path: Path) -> None:
    assert features_path(tmp_path, "ab" * 32) == tmp_path / "features" / "ab" / ("ab" * 32)
    with pytest.raises(ValueError, match="not a SHA-256"):
        features_path(tmp_path, "../../outside")


def test_a_decision_that_another_program_changed_is_named(out_dir: Path) -> None:
    write_manifest(out_dir, ALL)
    path = out_dir / "decisions.jsonl"
    path.write_text(path.read_text().replace('"frames": 125', '"frames": "many"'))
    with pytest.raises(MediaError, match=r"decisions.jsonl', line 2: 'frames' should be a valid integer"):
        read_decisions(out_dir)


def test_a_folder_of_clips_needs_no_manifest(tmp_path: Path) -> None:
    from latentsync.media.write import write_video

    (tmp_path / "sub").mkdir()
    for name in ("b.mp4", "sub/a.mp4"):
        write_video(tmp_path / name, [np.zeros((64, 64, 3), np.uint8)] * 7)
    clips = read_manifest(tmp_path)
    assert [clip.name for clip in clips] == ["b.mp4", "sub/a.mp4"]
    assert all((clip.frames, clip.resolution, clip.sha256) == (7, 64, None) for clip in clips)
    (tmp_path / "none").mkdir()
    with pytest.raises(MediaError, match="neither"):
        read_manifest(tmp_path / "none")


def test_split_depends_on_the_person_only() -> None:
    people = [f"person {number}" for number in range(4000)]
    splits = [split_of(person, validation_share=0.1) for person in people]
    assert splits.count("validation") / len(people) == pytest.approx(0.1, abs=0.02)
    assert splits[7] == split_of("person 7", validation_share=0.1)
    wider = [split_of(person, validation_share=0.2) for person in people]
    assert all(
        after == "validation" for before, after in zip(splits, wider, strict=True) if before != "train"
    )


def test_who_is_seen() -> None:
    pattern = "(id[0-9]{5})/"
    assert person_of("dev/id00017/v/1.mp4", by="person", pattern=pattern) == "id00017"
    assert person_of("news/1.mp4", by="person", pattern=pattern) == "news/1.mp4"
    assert person_of("dev/id00017/v/1.mp4", by="source", pattern=pattern) == "dev/id00017/v/1.mp4"


def test_any_name_becomes_text_and_no_two_meet() -> None:
    raw = Path("/raw")
    names = [os.fsdecode(b"a\xff.mp4"), "a\\xff.mp4", "a/ü\n.mp4", "a\\\\xff.mp4"]
    written = [source_name(raw / name, raw) for name in names]
    assert len(set(written)) == len(names)
    assert all(name.encode() for name in written)
    assert written[2] == names[2]


def test_folders_of_long_names_stay_apart() -> None:
    first, second = (clip_folder(Path("out"), "ü" * 120 + end).name for end in ("1.mp4", "2.mp4"))
    assert first != second and len(first.encode()) <= 200
