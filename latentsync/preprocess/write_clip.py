"""Eighth step: writes a clip with its speech, in the same bytes on every run."""

from __future__ import annotations

import errno
import wave
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from latentsync.errors import MediaError
from latentsync.files import part_beside, sha256_of
from latentsync.manifest import clip_folder, person_of, split_of
from latentsync.media.write import Encoding, write_video
from latentsync.preprocess.step import Clip, Drop, Written, speech_during
from latentsync.rates import AUDIO_HZ, VIDEO_FPS
from latentsync.recipe.preprocess import ClipEncoding, Splitting


@dataclass
class WriteClip:
    """Writes `clips/SOURCE/START-END.mp4`: with a folder for each source, names never collide."""

    encoding: ClipEncoding
    split: Splitting
    name: str = "write_clip"

    def start(self) -> None:
        pass

    def run(self, clip: Clip, out_dir: Path) -> Iterator[Clip | Drop]:
        if clip.crops_u8 is None or clip.frames is None:
            raise ValueError("there is no crop to write")
        start_s, end_s = clip.start_frame / VIDEO_FPS, (clip.start_frame + clip.frames) / VIDEO_FPS
        # Of fixed width, so that names sort by time.
        path = clip_folder(out_dir, clip.source.name) / f"{start_s:09.2f}-{end_s:09.2f}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        self._write(path, clip.crops_u8, speech_during(clip))
        person = clip.source.person if self.split.by == "person" else None
        person = person or person_of(clip.source.name, by=self.split.by, pattern=self.split.person_pattern)
        written = Written(
            name=path.relative_to(out_dir).as_posix(),
            sha256=sha256_of(path),
            person=person,
            split=split_of(person, validation_share=self.split.validation_share),
        )
        yield replace(clip, crops_u8=None, written=written)

    def _write(self, path: Path, crops_u8: NDArray[np.uint8], samples: NDArray[np.float32]) -> None:
        # One thread: the output of x264 depends on their number, and there is a worker for each core anyway.
        encoding = Encoding(self.encoding.codec, self.encoding.crf, self.encoding.preset, threads=1)
        speech = part_beside(path)  # beside the clip, so that a run finds it if this worker is killed
        try:
            _write_wav(speech, samples)
            write_video(path, crops_u8, speech=speech, encoding=encoding)
        except MediaError as error:
            # A full or broken disk is not this source's fault: it must not become a drop.
            raise OSError(getattr(error.__cause__, "errno", None) or errno.EIO, str(error)) from error
        finally:
            speech.unlink(missing_ok=True)


def _write_wav(path: Path, samples: NDArray[np.float32]) -> None:
    levels = np.rint(np.clip(samples, -1, 1) * 32767).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(AUDIO_HZ)
        file.writeframes(levels.tobytes())
