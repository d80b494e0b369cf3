"""Fourth step: cuts a shot into clips of a length that training can use."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from latentsync.preprocess.step import Clip, Drop, Picture
from latentsync.rates import VIDEO_FPS
from latentsync.recipe.preprocess import Cutting


@dataclass
class CutSegments:
    """Yields clips of `length_s`; the rest of a shot joins the last one, which is less than twice as long.

    It follows the alignment because it holds a clip until its end is known, and crops are small.
    """

    cutting: Cutting
    name: str = "cut_segments"

    def start(self) -> None:
        pass

    def run(self, clip: Clip, out_dir: Path) -> Iterator[Clip | Drop]:
        if clip.pictures is None:
            raise ValueError("there are no pictures to cut")
        length = max(1, round(self.cutting.length_s * VIDEO_FPS))
        start, held = clip.start_frame, []
        for picture in clip.pictures:
            held.append(picture)
            # Only now is a whole clip sure to follow, so that no short rest is left at the end.
            if len(held) == 2 * length:
                yield _take(held, length, start, clip)
                start += length
        if len(held) >= round(self.cutting.min_s * VIDEO_FPS):
            yield _take(held, len(held), start, clip)
        elif held:
            short = replace(clip, start_frame=start, frames=len(held), pictures=None)
            yield Drop("too_short", f"{len(held) / VIDEO_FPS:.2f} s < {self.cutting.min_s:g} s", short)


def _take(held: list[Picture], frames: int, start_frame: int, clip: Clip) -> Clip:
    """The first `frames` of the held pictures, as a clip; an iterator frees its list at the end."""
    taken = held[:frames]
    del held[:frames]
    return replace(clip, start_frame=start_frame, frames=frames, pictures=iter(taken))
