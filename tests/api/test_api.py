"""What `import latentsync` offers."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import scipy.io.wavfile

import latentsync
from latentsync import api
from latentsync.media.read import read_frames
from latentsync.types import FrameImage

EXAMPLES = Path(__file__).parents[2] / "examples"
HEAVY = ("torch", "numpy", "av", "cv2", "pydantic", "typer")


@pytest.fixture(scope="module")
def model() -> api.Model:
    return latentsync.load("compact", device="cpu")


@pytest.fixture(scope="module")
def portrait() -> list[FrameImage]:
    return [frame.rgb_u8 for frame in read_frames(EXAMPLES / "portrait.mp4", end_s=0.2)]


def speech(seconds: float) -> tuple[int, np.ndarray]:
    rate_hz, samples = scipy.io.wavfile.read(EXAMPLES / "speech.wav")
    return rate_hz, samples[: round(seconds * rate_hz)]


def test_importing_it_loads_nothing_and_calling_a_package_works_after_its_modules_were_imported() -> None:
    program = (
        "import sys, latentsync\n"
        f"assert not set({HEAVY!r}) & set(sys.modules)\n"
        "from latentsync import sync\n"
        "assert 'torch' not in sys.modules\n"
        "from latentsync.sync.run import run\n"
        "assert latentsync.sync is sync and latentsync.sync.run.run is run\n"
        "try:\n    latentsync.sync('no.mp4', 'no.wav', 'no_out.mp4')\n"
        "except latentsync.MediaError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("'no.mp4' does not exist")


def test_the_front_door_lists_what_the_api_has() -> None:
    assert latentsync.__all__ == api.__all__
    assert set(latentsync.__all__) <= set(dir(latentsync))
    for name in latentsync.__all__:
        assert getattr(latentsync, name).__doc__, name
    assert inspect.signature(latentsync.sync) == inspect.signature(api.sync)
    with pytest.raises(AttributeError, match="'snyc'"):
        getattr(latentsync, "snyc")  # noqa: B009


def test_arrays_and_iterators_give_what_a_file_gives(
    model: api.Model, portrait: list[FrameImage], tmp_path: Path
) -> None:
    rate_hz, samples = speech(0.2)
    scipy.io.wavfile.write(tmp_path / "speech.wav", rate_hz, samples)

    def one_by_one() -> Iterator[FrameImage]:
        yield from portrait

    made = model.frames(one_by_one(), samples, speech_hz=rate_hz)
    assert (made.fps, made.height, made.width, len(made)) == (25.0, 480, 480, 5)
    frames = list(made)
    floats = [image.astype(np.float32) / 255 for image in portrait]
    again = list(model.frames(np.stack(floats), tmp_path / "speech.wav"))
    assert np.array_equal(frames, again)
    changed = np.abs(np.stack(frames).astype(int) - np.stack(portrait)).max(axis=(0, 3))  # h w
    assert changed[300:400, 180:300].max() > 20 and changed[:100].max() == 0


def test_a_loaded_model_writes_a_picture_that_talks(
    model: api.Model, portrait: list[FrameImage], tmp_path: Path
) -> None:
    rate_hz, samples = speech(0.2)
    events: list[api.Event] = []
    stereo = np.stack([samples, samples], axis=1)  # n c
    result = model.sync(
        portrait[0], stereo, tmp_path / "out.mp4", speech_hz=rate_hz, progress=events.append, effort="draft"
    )
    assert (result.frames, result.frames_with_face, result.effort) == (5, 5, "draft")
    assert (tmp_path / "out.mp4").exists()
    assert events[-1] == api.Progress("sync", 5, 5)


def test_leaving_the_loop_ends_the_work(model: api.Model, portrait: list[FrameImage]) -> None:
    rate_hz, samples = speech(1.0)
    made = model.frames(portrait, samples, speech_hz=rate_hz)
    assert next(iter(made)).shape == (480, 480, 3)
    made.images.close()  # type: ignore[attr-defined]
    assert list(made) == []


@pytest.mark.parametrize(
    ("video", "words"),
    [
        ([], "no frame"),
        (np.zeros((2, 8, 8), np.uint8), r"\(2, 8, 8\)"),
        ([np.zeros((8, 8, 3), np.uint8), np.zeros((9, 8, 3), np.uint8)], "frame 1 has 8x9 px, the first 8x8"),
        (np.full((8, 8, 3), 7.0), "float64 values from 7.0 to 7.0"),
    ],
)
def test_arrays_that_are_no_pictures_are_refused(model: api.Model, video: object, words: str) -> None:
    with pytest.raises(latentsync.MediaError, match=words):
        model.frames(video, np.zeros(1600, np.float32))


def test_samples_of_another_shape_are_refused(model: api.Model, portrait: list[FrameImage]) -> None:
    with pytest.raises(latentsync.MediaError, match=r"\(1, 2, 1600\)"):
        model.frames(portrait, np.zeros((1, 2, 1600), np.float32))
