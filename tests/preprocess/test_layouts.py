"""Data sets as they are distributed: VoxCeleb2 with its sound apart, HDTF with its lists of clips."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from latentsync.errors import MediaError
from latentsync.events import Event, Note, Plan
from latentsync.manifest import read_decisions
from latentsync.preprocess.layouts import find_sources
from latentsync.preprocess.read_video import ReadVideo
from latentsync.preprocess.run import PreprocessJob, run
from latentsync.preprocess.step import Clip, Drop, Source
from latentsync.types import FrameImage

from .conftest import RECIPE

MakeFilm = Callable[..., Path]
CLIP = "id00017/01dfn2spqyE/00001"


def read(source: Source) -> tuple[Clip | Drop, list[FrameImage]]:
    """What becomes of a source first, and its frames."""
    answer = next(ReadVideo(RECIPE.read, min_s=0.5).run(Clip(source=source), source.path.parent))
    frames = answer.stream if isinstance(answer, Clip) else None
    return answer, [frame.rgb_u8 for frame in frames or ()]


@pytest.fixture
def voxceleb2(make_film: MakeFilm, tmp_path: Path) -> Path:
    """dev/mp4 without sound and dev/aac without pictures, as distributed."""
    for name in (CLIP, "id00018/other/00001"):
        make_film(f"raw/dev/mp4/{name}.mp4", sound_s=None)
    sound = make_film(f"raw/dev/aac/{CLIP}.mp4", has_video=False, frames=0)
    sound.rename(sound.with_suffix(".m4a"))
    return tmp_path / "raw"


@pytest.fixture
def hdtf(make_film: MakeFilm, tmp_path: Path) -> Path:
    """Two whole videos, one of them in no list, and lists in HDTF's own format."""
    pictures = [np.full((60, 80, 3), 2 * number, np.uint8) for number in range(100)]
    for picture in pictures:
        picture[:, 60:] = 255  # outside the window
    make_film("raw/videos/AmyKlobuchar1.mp4", pictures=pictures, sound_s=4)
    make_film("raw/videos/Unlisted.mp4")
    folder = tmp_path / "raw" / "HDTF_dataset"
    folder.mkdir()
    (folder / "WDA_annotion_time.txt").write_text(
        "AmyKlobuchar1.mp4 00:00-00:01 00:02-00:04\nBillRichardson.mp4 00:10-02:15\n\n"
    )
    # Of frames of 720 px: left, width, top, height. The second clip has no window.
    (folder / "WDA_crop_wh.txt").write_text("AmyKlobuchar1_0.mp4 180 180 180 180\nOdd_0.mp4 1 2 3\n")
    (folder / "WDA_resolution.txt").write_text("AmyKlobuchar1.mp4 720\nOdd.mp4 720 not the best\n")
    return tmp_path / "raw"


def test_voxceleb2_takes_the_sound_from_its_other_folder(voxceleb2: Path) -> None:
    found = find_sources(voxceleb2, "voxceleb2")
    assert list(found.sources) == [f"dev/mp4/{CLIP}.mp4", "dev/mp4/id00018/other/00001.mp4"]
    assert found.notes == ("1 of 2 videos have no file in aac/",)
    clip, _ = read(found.sources[f"dev/mp4/{CLIP}.mp4"])
    assert isinstance(clip, Clip) and clip.speech is not None
    assert len(clip.speech) > 1.1 * 16000 and np.abs(clip.speech).max() > 0.01
    lost, _ = read(found.sources["dev/mp4/id00018/other/00001.mp4"])
    assert isinstance(lost, Drop) and lost.reason == "no_audio"


def test_each_part_of_voxceleb2_can_be_named(voxceleb2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(voxceleb2 / "dev")
    for raw in (Path("mp4"), Path("mp4/id00017"), Path()):
        source = next(iter(find_sources(raw, "voxceleb2").sources.values()))
        assert source.sound == (voxceleb2 / "dev" / "aac" / CLIP).with_suffix(".m4a")


def test_a_plain_folder_says_that_the_sound_lies_apart(voxceleb2: Path) -> None:
    (note,) = find_sources(voxceleb2, "folder").notes
    assert note.endswith("add --layout voxceleb2")


def test_hdtf_cuts_the_listed_clips(hdtf: Path) -> None:
    found = find_sources(hdtf, "hdtf")
    assert list(found.sources) == ["AmyKlobuchar1_0.mp4", "AmyKlobuchar1_1.mp4"]
    assert found.notes == (
        "1 of 3 listed clips have no video here: BillRichardson_0.mp4",
        "1 videos are in no list and are not used",
    )
    assert {source.person for source in found.sources.values()} == {"AmyKlobuchar"}
    (_, window), (second, whole) = map(read, found.sources.values())
    assert (len(window), len(whole)) == (25, 50)
    # 180 px of 720 are a quarter of the height, 15 px; with half of that on each side, 30.
    assert window[0].shape == (30, 30, 3) and whole[0].shape == (60, 80, 3)
    assert window[-1].max() < 80 < whole[0][0, 0, 0] and whole[0].max() > 240
    assert (
        isinstance(second, Clip)
        and second.speech is not None
        and len(second.speech) == pytest.approx(2 * 16000, abs=200)
    )


def test_people_of_hdtfs_radio_talks_are_not_known(hdtf: Path) -> None:
    for name in hdtf.glob("HDTF_dataset/WDA_*"):
        name.rename(name.with_name(name.name.replace("WDA", "RD")))
    assert {source.person for source in find_sources(hdtf, "hdtf").sources.values()} == {"AmyKlobuchar1"}


@pytest.mark.parametrize("line", ["A.mp4 00:30", "A.mp4 01:00-00:30", "A.mp4 0x30-01:00"])
def test_a_damaged_line_of_a_list_is_named(hdtf: Path, line: str) -> None:
    file = hdtf / "HDTF_dataset" / "WDA_annotion_time.txt"
    file.write_text(f"AmyKlobuchar1.mp4 00:00-00:01\n{line}\n")
    with pytest.raises(MediaError, match=rf"'{file}', line 2: '"):
        find_sources(hdtf, "hdtf")


@pytest.mark.parametrize("layout", ["voxceleb2", "hdtf"])
def test_another_layout_is_refused(make_film: MakeFilm, tmp_path: Path, layout: str) -> None:
    make_film("raw/film.mp4")
    with pytest.raises(MediaError, match=r"layout of VoxCeleb2|none of HDTF's lists") as caught:
        find_sources(tmp_path / "raw", layout)  # type: ignore[arg-type]
    assert "omit --layout" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("layout", "drops"), [("voxceleb2", ["no_face", "no_audio"]), ("hdtf", ["no_face"] * 2)]
)
def test_the_first_command_of_the_docs_runs_on_both(
    request: pytest.FixtureRequest, tmp_path: Path, layout: str, drops: list[str]
) -> None:
    """With a picture that no face is in, every source gets as far as the search for one."""
    raw, events = request.getfixturevalue(layout), list[Event]()
    job = PreprocessJob(raw=raw, out=tmp_path / "out", layout=layout, workers=1, device="cpu")  # type: ignore[arg-type]
    recipe = RECIPE.model_copy(update={"cut": RECIPE.cut.replaced(min_s=0.5), "sync": RECIPE.sync})
    result = run(job, recipe, events.append)
    assert [decision.reason for decision in read_decisions(tmp_path / "out")] == drops
    assert any(isinstance(event, Note) for event in events)
    assert any(isinstance(event, Plan) and layout in event.lines[0].lower() for event in events)
    if layout == "voxceleb2":  # a sound that came later is taken
        aac = raw / "dev" / "aac"
        (aac / "id00018" / "other").mkdir(parents=True)
        shutil.copy(aac / f"{CLIP}.m4a", aac / "id00018" / "other" / "00001.m4a")
        again = run(job, recipe, events.append)
        assert (result.done, again.before, again.done) == (2, 1, 1)
