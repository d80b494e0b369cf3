"""Every command printed in README and docs runs, as far as it can without a network, dry where it can be."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

from latentsync.media.read import read_frames
from latentsync.media.write import Encoding, write_video
from latentsync.recipe.loading import bundled_names
from latentsync_cli import app

REPOSITORY = Path(__file__).parents[2]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
BUNDLED = REPOSITORY / "latentsync" / "bundled"
DRY = {"sync", "preprocess", "train-syncnet", "train-unet"}
NEEDS_RELEASED = re.compile(
    r"latentsync models pull [a-z0-9.-]+"
)  # the hint of a refusal that is expected here
LEFT_OUT = re.compile(r"…|\.\.\.|\[options\]")  # not whole: a fragment that explains itself


def commands_of(page: Path) -> Iterator[str]:
    """The commands in blocks of shell, and those in the text that have arguments."""
    text = page.read_text(encoding="utf-8")
    for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL):
        yield from block.replace("\\\n", " ").splitlines()
    yield from re.findall(
        r"`(latentsync (?:models )?[a-z-]+ [^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    )


def words_of(line: str) -> list[str]:
    words = shlex.split(re.sub(r"\s\[.*?\]", "", line), comments=True)
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        del words[0]
    return words


def all_commands() -> list[tuple[str, str]]:
    found = [
        (page.name, " ".join(shlex.quote(word) for word in words_of(line)))
        for page in PAGES
        for line in commands_of(page)
        if not LEFT_OUT.search(line)
        and words_of(line)[:1] == ["latentsync"]
        and words_of(line)[1:2]
        not in (["serve"], ["ui"])  # which end only when they are stopped: tests/serve
    ]
    return list(dict.fromkeys(found))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the names of the docs exist, with what an earlier command of the docs would write."""
    folder = tmp_path_factory.mktemp("docs")
    for name in ("VIDEO", "in.mp4", "interview.mp4"):
        shutil.copy(REPOSITORY / "examples" / "portrait.mp4", folder / name)
    for name in ("SPEECH", "voice.wav", "speech.wav"):
        shutil.copy(REPOSITORY / "examples" / "speech.wav", folder / name)
    for name in ("RAW", "raw"):
        (folder / name).mkdir()
        shutil.copy(REPOSITORY / "examples" / "portrait.mp4", folder / name / "a.mp4")
    write_data_sets(folder)
    (folder / "latentsync").symlink_to(REPOSITORY / "latentsync")
    (folder / "jobs.csv").write_text("video,speech\nin.mp4,voice.wav\n", encoding="utf-8")
    (folder / "cast.csv").write_text("who,speech,from\nleft,voice.wav,0.5\n", encoding="utf-8")
    write_pairs(folder)
    trainings = [
        name for name in bundled_names() if re.search(r"unet|syncnet|stage", name) and "compact" not in name
    ]
    for name in ["NAME", "small", "syncnet", "unet", *(name.split("/")[-1] for name in trainings)]:
        (folder / "runs" / name).mkdir(parents=True, exist_ok=True)
        (folder / "runs" / name / "log.jsonl").write_text(
            '{"samples": 8, "steps": 1, "losses": {"bce": 0.7}, "validation": {"confidence": 4}}\n'
        )
        is_other = name.startswith("syncnet-")  # of a kind that is not bundled: only its log is needed
        for file in () if is_other else ("unet.safetensors", "syncnet.safetensors"):
            shutil.copy(BUNDLED / file, folder / "runs" / name / file)
    return folder


def write_data_sets(folder: Path) -> None:
    """VoxCeleb2 and HDTF as they are distributed, with one clip each."""
    portrait = REPOSITORY / "examples" / "portrait.mp4"
    for name in ("voxceleb2/mp4/id00017/a/1.mp4", "voxceleb2/aac/id00017/a/1.m4a", "hdtf/Radio11.mp4"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(portrait, folder / name)
    (folder / "hdtf" / "RD_annotion_time.txt").write_text("Radio11.mp4 00:00-00:02\n")


def write_pairs(folder: Path) -> None:
    """A list of one short pair, and a method's video of it."""
    (folder / "videos").mkdir()
    encoding = Encoding(codec="libx264", crf=18, preset="ultrafast")
    for name in ("short.mp4", "videos/short.mp4"):
        frames = islice(read_frames(REPOSITORY / "examples" / "portrait.mp4"), 60)
        write_video(folder / name, (frame.rgb_u8 for frame in frames), encoding=encoding)
    (folder / "pairs.csv").write_text("video,speech\nshort.mp4,speech.wav\n", encoding="utf-8")


@pytest.mark.parametrize(("page", "command"), all_commands())
def test_the_command_runs(
    page: str,
    command: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = shlex.split(command)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("LATENTSYNC_CACHE", str(folder / "cache"))
    words += ["--dry-run"] if words[1] in DRY else ["--offline"] if words[1:3] == ["models", "pull"] else []
    # The estimate of a dry run loads a model and measures: tests/end_to_end does that once.
    monkeypatch.setattr("latentsync.sync.run.estimate", lambda setup, model: "about 1 s")
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit) as ended:
        app.main()
        raise SystemExit(0)
    output = capsys.readouterr().err
    if ended.value.code in (0, None):
        return
    assert is_expected(words, int(str(ended.value.code)), output), output


def is_expected(words: list[str], code: int, output: str) -> bool:
    """Whether a refusal only means that nothing was downloaded here: it names the command that would."""
    if words[1:3] == ["models", "pull"]:
        return (code == 6 and "offline" in output) or (code == 2 and "/media/stick" in output)
    if words[1] == "evaluate" and "--set" in words:
        return code == 4 and "are missing" in output
    if words[1] == "evaluate" and "--data" in words:
        return code == 4 and "latentsync preprocess" in output  # the data is not here
    return code == 6 and bool(NEEDS_RELEASED.search(output))
