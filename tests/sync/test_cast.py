"""A cast: who says what from when, as a CSV or as triples, and what is wrong with a row."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
import pytest

from latentsync.errors import LatentSyncError, MediaError, UsageError
from latentsync.sync.cast import Line, mixed, read_cast, read_parts
from latentsync.sync.options import make_job


def sound(path: Path, level: float, seconds: float) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(np.full(round(seconds * 16_000), level * 32_767, np.int16).tobytes())
    return path


def written(folder: Path, text: str) -> Path:
    path = folder / "cast.csv"
    path.write_text(text, encoding="utf-8-sig")
    return path


def test_rows_are_lines(tmp_path: Path) -> None:
    path = written(tmp_path, 'Who,speech,from\nleft,a.wav,\n"@1:640,360",/far/b.wav,00:01:02.5\n\n')
    assert read_cast(path) == (
        Line("'cast.csv', row 2", "left", tmp_path / "a.wav", 0.0),
        Line("'cast.csv', row 3", "@1:640,360", Path("/far/b.wav"), 62.5),
    )
    (line,) = read_cast([("left", "a.wav", 1.5)])
    assert (line.origin, line.speech, line.from_s) == ("cast, row 1", Path("a.wav"), 1.5)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("who,speach\nleft,a.wav\n", "'cast.csv': unknown column 'speach'"),
        ("who,from\nleft,0\n", "'cast.csv': has no column 'speech'"),
        ("who,speech,who\n", "two columns are called 'who'"),
        ("who,speech\n", "nobody says anything"),
        ("who,speech\nleft\n", "row 2: 'speech' is missing"),
        ("who,speech,from\nleft,a.wav,soon\n", "row 2: from 'soon': is not a time"),
        ("who,speech\n640,360,a.wav\n", "row 2: has 3 cells, the header 2"),
        ("who,speech\nme,a.wav\nleft,b.wav\nyou,\n", "row 2: .*'me': unknown value .*rows 4 cannot"),
    ],
)
def test_one_fault_is_one_line(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(LatentSyncError, match=words) as refused:
        read_cast(written(tmp_path, text))
    assert "\n" not in str(refused.value) and refused.value.hint


def test_what_one_person_says_lies_on_one_clock_and_all_are_mixed(tmp_path: Path) -> None:
    low, high = sound(tmp_path / "low.wav", 0.2, 1), sound(tmp_path / "high.wav", 0.4, 1)
    cast = [("left", low, 2.0), ("right", low, 0.5), ("Left", high, 0.0)]
    left, right = read_parts(read_cast(cast))
    assert [len(part.speech.samples) / 16_000 for part in (left, right)] == [3.0, 1.5]
    heard = left.speech.samples[[8000, 24_000, 40_000]], mixed([left, right]).samples[[8001, 16_001, 40_000]]
    np.testing.assert_allclose(heard, [[0.4, 0, 0.2], [0.6, 0.2, 0.2]], atol=1e-3)


def test_one_person_says_one_thing_at_a_time(tmp_path: Path) -> None:
    one = sound(tmp_path / "a.wav", 0.2, 1)
    with pytest.raises(UsageError, match=r"row 1: 'left' begins at 0\.50 s, but cast, row 2 lasts"):
        read_parts(read_cast([("left", one, 0.5), ("left", one, 0)]))
    with pytest.raises(MediaError, match=r"cast, row 2: .*b\.wav"):
        read_parts(read_cast([("left", one, 0), ("right", tmp_path / "b.wav", 0)]))


def test_a_cast_brings_its_own_speech_and_faces(tmp_path: Path) -> None:
    cast = [("left", "a.wav", 0)]
    assert make_job("v.mp4", None, "o.mp4", {"cast": cast}).inputs == (Path("v.mp4"), Path("a.wav"))
    with pytest.raises(UsageError, match=r"'b\.wav': a cast brings its own speech"):
        make_job("v.mp4", "b.wav", "o.mp4", {"cast": cast})
    with pytest.raises(UsageError, match="--face and --cast exclude"):
        make_job("v.mp4", None, "o.mp4", {"cast": cast, "face": "left"})
    with pytest.raises(UsageError, match="neither speech nor a cast"):
        make_job("v.mp4", None, "o.mp4", {})
