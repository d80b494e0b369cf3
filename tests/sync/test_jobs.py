"""Lists of jobs: what columns become, and what is wrong with a row."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from latentsync.errors import LatentSyncError, MediaError, RecipeError, UsageError
from latentsync.events import Event, Note, ignore
from latentsync.faces.choice import FaceChoice
from latentsync.sync.jobs import BatchRow, read_jobs
from latentsync.sync.options import SyncOptions


def read(path: Path, text: str, **defaults: object) -> list[BatchRow]:
    path.write_text(text, encoding="utf-8")
    options = SyncOptions(**defaults)  # type: ignore[typeddict-item]
    return read_jobs(path, path.parent / "out", options, model="compact", report=ignore)


def test_columns_are_flags_and_win_over_those_of_the_command(tmp_path: Path) -> None:
    rows = read(
        tmp_path / "jobs.csv",
        "video,Speech,--face,start,keep-fps,set,output,steps\n"
        'a.mp4,/far/v.wav,"12,40",00:01:02.5,true,encoding.crf=3 paste.region=crop,sub/x.mkv,\n'
        "\n"
        "b.mp4,v.wav,,,,,,4\n",
        steps=7,
        face="left",
    )
    first, second = rows
    assert (first.number, second.number) == (2, 4)
    assert first.job.video == tmp_path / "a.mp4" and first.job.speech == Path("/far/v.wav")
    assert first.job.face == FaceChoice("point", point=(12.0, 40.0))
    assert (first.job.start_s, first.job.keep_fps) == (62.5, True)
    assert (first.recipe.encoding.crf, first.recipe.paste.region) == (3, "crop")
    assert first.job.output == tmp_path / "out" / "sub" / "x.mkv"
    assert second.job.output == tmp_path / "out" / "b_synced.mp4"
    assert second.job.face == FaceChoice("left")
    assert (first.recipe.sampling.steps, second.recipe.sampling.steps) == (7, 4)


def test_json_lines_hold_values_with_types(tmp_path: Path) -> None:
    lines = [
        {"video": "a.mp4", "speech": "v.wav", "face": 1, "set": ["paste.region=crop"], "seed": None},
        {"video": "b.mp4", "speech": "v.wav", "end": 2.5, "compare": True},
    ]
    first, second = read(tmp_path / "jobs.jsonl", "\n".join(map(json.dumps, lines)))
    assert first.job.face == FaceChoice("index", index=1)
    assert first.recipe.paste.region == "crop"
    assert (second.job.end_s, second.job.compare) == (2.5, True)


def test_a_cast_is_relative_to_the_list(tmp_path: Path) -> None:
    (tmp_path / "cast.csv").write_text("who,speech\nleft,a.wav\n", encoding="utf-8")
    (row,) = read(tmp_path / "jobs.csv", "video,cast\nv.mp4,cast.csv\n")
    assert row.job.inputs == (tmp_path / "v.mp4", tmp_path / "a.wav")
    line = {"video": "v.mp4", "cast": [["left", "a.wav", 2]]}
    (row,) = read(tmp_path / "jobs.jsonl", json.dumps(line))
    assert row.job.cast[0].speech == tmp_path / "a.wav" and row.job.cast[0].from_s == 2


def test_a_folder_has_pairs_of_one_name(tmp_path: Path) -> None:
    for name in ("b.mp4", "b.wav", "a.PNG", "a.mp3", "lonely.mov", "notes.txt"):
        (tmp_path / name).touch()
    events: list[Event] = []
    rows = read_jobs(tmp_path, tmp_path / "out", SyncOptions(), model="compact", report=events.append)
    pairs = [(row.job.video.name, row.job.speech.name) for row in rows]
    assert pairs == [("a.PNG", "a.mp3"), ("b.mp4", "b.wav")]
    assert events == [Note("'lonely.mov': left out, no sound file has its name", "warning")]


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("video,speech,fase\na,b,left\n", UsageError, "'jobs.csv': no option is called 'fase'|face"),
        ("video,speech,steps\na,b,1\nc,d,many\n", UsageError, "'jobs.csv', row 3: steps = 'many': expected"),
        ("video,speech\na,\n", UsageError, "row 2: 'speech' is missing|column 'speech'"),
        ("video,speech\na,b,c\n", UsageError, "row 2: has 3 cells, the header 2|quotes"),
        ("video,speech,codec\na,b,vp9\n", RecipeError, "row 2: --set encoding.codec"),
        (
            "video,speech\na.mp4,b\na.mov,c\n",
            UsageError,
            "row 3: '/.*a_synced.mp4' is also the output of row 2",
        ),
        ("video,video\na,b\n", UsageError, "two columns are called 'video'"),
        ("video,speech\n", UsageError, "'jobs.csv': has no job|add a line"),
        ('video,speech\n"a,b\n', MediaError, "line 2: unexpected end of data"),
    ],
)
def test_one_fault_is_one_line(text: str, kind: type[LatentSyncError], words: str, tmp_path: Path) -> None:
    message, _, hint = words.partition("|")
    path = tmp_path / "jobs.csv"
    with pytest.raises(kind) as raised:
        read(path, text)
    assert "\n" not in str(raised.value)
    assert raised.match(message.replace("'jobs.csv'", "'.*jobs.csv'"))
    assert hint in str(raised.value.hint)


def test_each_of_several_faults_is_named_before_anything_starts(tmp_path: Path) -> None:
    path = tmp_path / "jobs.csv"
    path.write_text("video,speech,crf\na,b,99\nc,d,20\ne,f,x\n", encoding="utf-8")
    events: list[Event] = []
    with pytest.raises(UsageError, match="2 of 3 rows cannot be used, nothing was started"):
        read_jobs(path, tmp_path, SyncOptions(), model="compact", report=events.append)
    named = [event.message for event in events if isinstance(event, Note)]
    assert ["row 2" in named[0], "row 4" in named[1], len(named)] == [True, True, 2]


@pytest.mark.parametrize("name", ["jobs.txt", "missing.csv"])
def test_what_is_no_list_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "jobs.txt").write_text("a b\n")
    with pytest.raises(LatentSyncError, match=name) as raised:
        read_jobs(tmp_path / name, tmp_path, SyncOptions(), model="compact", report=ignore)
    assert ".csv" in str(raised.value.hint)
