"""Which clips are evaluated, and which file of a method belongs to which."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from latentsync.errors import MediaError, UsageError
from latentsync.evaluate.pairs import Pair, match_files, pairs_of_set, read_pairs
from latentsync.recipe.evaluate import SetRecipe
from latentsync.recipe.loading import load_recipe


def make_files(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make_files(
        tmp_path / "data", *(f"Radio{one}_{clip}.mp4" for one in range(40) for clip in range(3))
    )


@pytest.fixture
def hdtf() -> SetRecipe:
    return load_recipe("sets/hdtf", SetRecipe)


def test_a_set_has_as_many_clips_as_its_recipe_says_each_of_another_person(
    data: Path, hdtf: SetRecipe
) -> None:
    pairs = [pair for pair in pairs_of_set(hdtf, data) if pair.setting == "reconstruction"]
    assert len(pairs) == 30
    assert len({pair.name.rsplit("_", 1)[0] for pair in pairs}) == 30


def test_a_video_that_is_gone_is_replaced_and_moves_no_other(data: Path, hdtf: SetRecipe) -> None:
    before = {pair.video for pair in pairs_of_set(hdtf, data)}
    gone = sorted(before)[0]
    for sibling in data.glob(f"{gone.stem.rsplit('_', 1)[0]}_*.mp4"):
        sibling.unlink()
    after = {pair.video for pair in pairs_of_set(hdtf, data)}
    assert before - after == {gone}
    assert len(after - before) == 1


def test_in_the_cross_setting_everyone_says_what_someone_else_says(data: Path, hdtf: SetRecipe) -> None:
    pairs = [pair for pair in pairs_of_set(hdtf, data) if pair.setting == "cross"]
    assert len(pairs) == len({pair.speech for pair in pairs}) == 30
    assert all(pair.speech != pair.video and pair.speaker == pair.speech for pair in pairs)


def test_the_sound_may_lie_beside_the_video(tmp_path: Path) -> None:
    names = [
        f"{kind}/id0000{one}/v/1.{suffix}"
        for one in (1, 2)
        for kind, suffix in (("mp4", "mp4"), ("aac", "m4a"))
    ]
    pairs = pairs_of_set(load_recipe("sets/voxceleb2", SetRecipe), make_files(tmp_path / "vox", *names))
    assert {pair.name for pair in pairs} >= {"id00001_v_1", "id00002_v_1"}
    assert {pair.sound.suffix for pair in pairs} == {".m4a"}


def test_absent_data_says_how_to_get_it(tmp_path: Path, hdtf: SetRecipe) -> None:
    with pytest.raises(MediaError, match="HDTF") as failure:
        pairs_of_set(hdtf, tmp_path / "nowhere")
    assert failure.value.hint is not None
    assert "github.com/MRzzm/HDTF" in failure.value.hint
    assert "CC BY" in failure.value.hint
    assert "--data" in failure.value.hint


def test_a_list_of_pairs(tmp_path: Path) -> None:
    lines = ["name,video,speech,speaker_video,generated", "a,a.mp4,a.mp4,,", "b,a.mp4,b.wav,b.mp4,made/b.mp4"]
    (tmp_path / "pairs.csv").write_text("\n".join(lines), encoding="utf-8-sig")
    own, other = read_pairs(tmp_path / "pairs.csv")
    assert (own.setting, own.speaker, own.generated) == ("reconstruction", tmp_path / "a.mp4", None)
    assert (other.setting, other.speaker) == ("cross", tmp_path / "b.mp4")
    assert other.generated == tmp_path / "made/b.mp4"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,video\na,a.mp4", "no column 'speech'"),
        (f"video,speech\na.mp4,{'s' * 140_000}", "is not a CSV (field larger than field limit"),
        ("video,speech\na.mp4,b.wav\nc/a.mp4,b.wav", "the name 'a' is given twice"),
        ("name,video,speech,colour\na,a.mp4,a.mp4,red", "unknown column 'colour'"),
        ("name,video,speech\na,,a.mp4", "line 2: 'video' is empty"),
        ("name,video,speech\n../a,a.mp4,a.mp4", "'../a' cannot be used as a file name"),
        ("name,video,speech\na,a.mp4,a.mp4\na,b.mp4,b.mp4", "the name 'a' is given twice"),
        ("name,video,speech\n", "lists no pair"),
        ("name,video,speech\na,a.mp4,one, two.wav", "line 2: more values than columns"),
    ],
)
def test_a_list_with_a_fault(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "pairs.csv").write_text(text, encoding="utf-8")
    with pytest.raises(UsageError) as failure:
        read_pairs(tmp_path / "pairs.csv")
    assert message in str(failure.value)


def test_a_pair_without_a_name_is_called_after_its_video(tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text("video,speech\nclips/a.mp4,b.wav\n", encoding="utf-8")
    (pair,) = read_pairs(tmp_path / "pairs.csv")
    assert (pair.name, pair.setting) == ("a", "cross")


def test_a_list_that_would_block_or_not_end_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pairs.csv")
    with pytest.raises(MediaError, match="not a regular file"):
        read_pairs(tmp_path / "pairs.csv")
    with (tmp_path / "large.csv").open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(MediaError, match="1,073,741,824 bytes"):
        read_pairs(tmp_path / "large.csv")


def pair_called(name: str, video: str = "v.mp4", speech: str = "s.wav") -> Pair:
    paths = {"video": Path(video), "sound": Path(video), "speech": Path(speech)}
    return Pair(name=name, setting="cross", **paths)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (("clip_1.mp4", "clip_1_result.mp4"), "clip_1.mp4"),
        (("clip_1_result.mp4", "clip_1_2.mp4"), "clip_1_result.mp4"),
        (("cross/clip_1.mp4", "clip_1.mp4"), "cross/clip_1.mp4"),
        (("v_s.mkv",), "v_s.mkv"),
        (("clip_12.mp4",), None),
        (("clip_1_a.mp4", "clip_1_b.mp4"), None),
    ],
)
def test_which_file_belongs_to_a_pair(tmp_path: Path, files: tuple[str, ...], expected: str | None) -> None:
    pairs = [pair_called("clip_1"), pair_called("clip_1_2", video="w.mp4")]
    found = match_files(pairs, make_files(tmp_path, *files), method="Ours")["cross", "clip_1"]
    assert found.path == (None if expected is None else tmp_path / expected)
    assert (found.reason == "") == (expected is not None)
