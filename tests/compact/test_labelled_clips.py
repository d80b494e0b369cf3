"""Which labelled clips there are, and how often each is drawn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from latentsync.errors import MediaError
from recipes.compact.labelled_clips import ClipDraw, ClipGroup, find_clips, matches_any

DRAWS = 4000
GROUPS = (ClipGroup(files="news-*", share=3), ClipGroup(files="film-*", share=1))


def shares(names: list[str], frames: list[int], groups: tuple[ClipGroup, ...] = GROUPS) -> dict[str, float]:
    draw = ClipDraw(names, frames, groups)
    random = np.random.default_rng(11)
    counts = Counter(names[draw.draw(random)] for _ in range(DRAWS))
    return {name: counts[name] / DRAWS for name in names}


def test_clips_in_the_order_of_their_names(make_clips: Callable[..., Path]) -> None:
    folder = make_clips("b", "a", "half.part", side_px=2)
    (folder / "notes").mkdir()
    clips = find_clips(folder)
    assert [clip.name for clip in clips] == ["a", "b"]
    assert clips[0].read("crops_u8").shape == (6, 2, 2, 3)


def test_a_folder_without_clips(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="no labelled clips") as failure:
        find_clips(tmp_path)
    assert str(tmp_path) in str(failure.value) and failure.value.hint


@pytest.mark.parametrize("damage", ["missing", "empty", "text"])
def test_a_damaged_clip(damage: str, make_clips: Callable[..., Path]) -> None:
    folder = make_clips("a", side_px=2)
    path = folder / "a" / "points.npy"
    if damage == "missing":
        path.unlink()
    else:
        path.write_text("" if damage == "empty" else "no array")
    with pytest.raises(MediaError, match=r"points.npy': cannot be read") as failure:
        find_clips(folder)[0].read("points")
    assert failure.value.hint


def test_groups_by_their_share_and_clips_by_their_length() -> None:
    drawn = shares(["news-a", "news-b", "film-a", "other"], [100, 200, 1, 900])
    assert drawn == pytest.approx({"news-a": 0.25, "news-b": 0.5, "film-a": 0.25, "other": 0.0}, abs=0.03)


def test_a_very_long_clip_is_not_drawn_all_the_time() -> None:
    assert shares(["news-a", "news-b"], [300, 90_000]) == pytest.approx(
        {"news-a": 0.5, "news-b": 0.5}, abs=0.03
    )


def test_a_group_without_clips_leaves_its_share_to_the_others() -> None:
    assert shares(["film-a"], [10]) == {"film-a": 1.0}


def test_no_clip_in_any_group() -> None:
    with pytest.raises(MediaError, match=r"no clip matches .*news-\*, film-\*"):
        ClipDraw(["other"], [10], GROUPS)


def test_names_and_patterns() -> None:
    assert matches_any("news-07", ("film-*", "news-0*"))
    assert not matches_any("news-07", ("news", "film-*"))
    assert not matches_any("news-07", ())
