"""The snippets of docs/python.md run, in order, in one namespace."""

from __future__ import annotations

import re
import shutil
import wave
from fractions import Fraction
from itertools import islice
from pathlib import Path

import pytest

from latentsync.media.read import read_frames
from latentsync.media.write import Encoding, VideoWriter

REPOSITORY = Path(__file__).parents[2]
EXAMPLES = REPOSITORY / "examples"
PAGE = REPOSITORY / "docs" / "python.md"
VIDEO_FRAMES, SPEECH_S = 60, 0.4


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files that the page names, cut short."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LATENTSYNC_CACHE", str(tmp_path / "cache"))
    encoding = Encoding(codec="libx264", crf=18, preset="ultrafast")
    with VideoWriter(
        Path("in.mp4"), width=480, height=480, fps=Fraction(25), like=None, speech=None, encoding=encoding
    ) as writer:
        for frame in islice(read_frames(EXAMPLES / "portrait.mp4"), VIDEO_FRAMES):
            writer.write(frame.rgb_u8)
    with (
        wave.open(str(EXAMPLES / "speech.wav")) as source,
        wave.open("voice.wav", "wb") as target,
    ):
        target.setparams(source.getparams())
        target.writeframes(source.readframes(round(SPEECH_S * source.getframerate())))
    for name in ("interview.mp4", "raw/in.mp4", "videos/in.mp4"):
        Path(name).parent.mkdir(exist_ok=True)
        shutil.copy("in.mp4", name)
    shutil.copy(EXAMPLES / "speech.wav", "long.wav")
    Path("pairs.csv").write_text("video,speech\nin.mp4,long.wav\n", encoding="utf-8")
    return tmp_path


def test_the_snippets_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    snippets = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, object] = {"__name__": "__main__"}
    for number, snippet in enumerate(snippets):
        exec(compile(snippet, f"{PAGE.name}, snippet {number}", "exec"), names)
    printed = capsys.readouterr().out
    for words in ("10 ()", "no face in any of", "sync: 10 of 10", "'nothing.mp4' does not exist"):
        assert words in printed
    for made in (
        "dubbed.mp4",
        "new_in.mp4",
        "new_interview.mp4",
        "crop.mp4",
        "cast.mp4",
        "shown.mp4",
        "evaluation",
    ):
        assert (folder / made).exists()
