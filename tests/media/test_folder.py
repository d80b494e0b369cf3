"""Which files are found, and which trees do not stop the search."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from latentsync.errors import MediaError
from latentsync.media.folder import find_videos


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_videos_are_found_by_suffix_and_sorted_and_the_rest_is_counted(tmp_path: Path) -> None:
    for name in ("b/z.MP4", "b/a.mkv", "a.mov", "b.txt", "c/readme.md", "._a.mov", "d.mp4.part"):
        touch(tmp_path / name)
    found = find_videos(tmp_path)
    assert list(found.videos) == ["a.mov", "b/a.mkv", "b/z.MP4"]
    assert found.videos["b/a.mkv"] == tmp_path / "b" / "a.mkv"
    assert (found.other_files, found.unreadable) == (4, {})


def test_any_name_is_kept(tmp_path: Path) -> None:
    names = [
        "a b.mp4",
        "quote'\".mp4",
        "line\nbreak.mp4",
        "ünï 漢.mp4",
        os.fsdecode(b"\xff\xfe.mp4"),
        "-x.mp4",
    ]
    for name in names:
        touch(tmp_path / name)
    assert list(find_videos(tmp_path).videos) == sorted(names)


def test_every_folder_is_visited_once_whatever_links_lead_to_it(tmp_path: Path) -> None:
    touch(tmp_path / "raw/a/b/clip.mp4")
    (tmp_path / "raw/a/b/up").symlink_to(tmp_path / "raw")
    (tmp_path / "raw/self").symlink_to("self")
    touch(tmp_path / "elsewhere/linked.mp4")
    (tmp_path / "raw/c").symlink_to(tmp_path / "elsewhere")
    assert list(find_videos(tmp_path / "raw").videos) == ["a/b/clip.mp4", "c/linked.mp4"]


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "gone.mp4").symlink_to("nowhere")
    found = find_videos(tmp_path)
    assert found.videos == {}
    assert found.unreadable == {"pipe.mp4": "is not a regular file", "gone.mp4": "No such file or directory"}


def test_a_folder_that_cannot_be_read_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path / "open/a.mp4")
    locked = touch(tmp_path / "locked/b.mp4").parent
    scan = os.scandir

    def refuse(path: Path) -> object:
        if Path(path) == locked:
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)  # root may read everything, whatever its mode
    found = find_videos(tmp_path)
    assert list(found.videos) == ["open/a.mp4"]
    assert found.unreadable == {"locked": "this folder cannot be read (Permission denied)"}


def test_a_list_names_files_by_their_whole_path(tmp_path: Path) -> None:
    videos = [touch(tmp_path / name) for name in ("lists/a.mp4", "other/a.mp4", "odd.name")]
    listed = tmp_path / "lists/some.txt"
    listed.write_text(f"a.mp4\n\n../other/a.mp4\r\n{videos[2]}\nmissing.mp4\n")
    found = find_videos(listed)
    assert sorted(found.videos.values()) == sorted(videos)
    assert all(name == str(path).lstrip("/") for name, path in found.videos.items())
    assert list(found.unreadable.values()) == ["No such file or directory"]


def test_one_video_is_itself(tmp_path: Path) -> None:
    video = touch(tmp_path / "one.video")
    assert find_videos(video).videos == {"one.video": video}


def test_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="nowhere"):
        find_videos(tmp_path / "nowhere")


def test_a_list_is_a_regular_text_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(MediaError, match="is not a regular file"):
        find_videos(tmp_path / "pipe.txt")
    (tmp_path / "binary.txt").write_bytes(b"a.mp4\n\0")
    with pytest.raises(MediaError, match="is not a text file"):
        find_videos(tmp_path / "binary.txt")
