"""Contact sheets of mouths over time, above the waveform of the speech: to be looked at.

    python benchmarks/lip_sheets.py RESULT... --out DIR [--speaker VIDEO...] [--columns 32] [--every 2]

A RESULT called A__B.mp4, as `lips.py --keep` leaves them, shows the mouth of the speaker whose VIDEO is
called B in the upper row, the new mouth in the lower one, and the sound of the result beneath, all from the
same times on: the loudest stretch, or what follows --start. Without such a VIDEO the upper row is left out.
The grey line at the left of a picture is its moment in the waveform.
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
from lip_measures import FPS, faces
from numpy.typing import NDArray

from latentsync.evaluate.prepare import Prepared, prepare, read_speech
from latentsync.faces.align import WINDOW_HEIGHT, WINDOW_WIDTH
from latentsync.rates import SAMPLES_PER_FRAME
from latentsync.recipe.evaluate import EvaluateRecipe
from latentsync.recipe.loading import load_recipe

PREPARING = load_recipe("evaluate", EvaluateRecipe).prepare

TILE_PX = 72  # width of a picture
ROWS, COLUMNS = (0.46, 0.94), (0.2, 0.8)  # of the crop: the lips, the chin, and room around them
WAVE_PX, TICKS_PX, NAME_PX = 90, 24, 20
INK, GREY, PAPER = (0, 0, 0), (190, 190, 190), 255
Picture = NDArray[np.uint8]  # (h w c) RGB


def mouths(prepared: Prepared, ticks: range) -> Picture:
    """The mouths at those frames of 25 a second, side by side; grey past the end."""
    side = prepared.crops_u8.shape[1]
    rows, columns = (slice(round(first * side), round(last * side)) for first, last in (ROWS, COLUMNS))
    # A crop is a window of 75:100 squeezed to a square: the picture gets its height back.
    height = round(TILE_PX * (ROWS[1] - ROWS[0]) / (COLUMNS[1] - COLUMNS[0]) * WINDOW_HEIGHT / WINDOW_WIDTH)
    tiles = []
    for tick in ticks:
        if tick >= prepared.frames:
            tiles.append(np.full((height, TILE_PX, 3), GREY[0], np.uint8))
            continue
        mouth = np.ascontiguousarray(prepared.crops_u8[tick, rows, columns])
        tiles.append(np.asarray(cv2.resize(mouth, (TILE_PX, height), interpolation=cv2.INTER_AREA), np.uint8))
    return np.concatenate(tiles, axis=1)


def loudest(samples: NDArray[np.float32], frames: int) -> int:
    """The frame at which the loudest stretch of so many begins."""
    whole = len(samples) // SAMPLES_PER_FRAME
    power = (samples[: whole * SAMPLES_PER_FRAME].reshape(whole, -1) ** 2).sum(1)
    if whole <= frames:
        return 0
    return int(np.convolve(power, np.ones(frames), mode="valid").argmax())


def wave(samples: NDArray[np.float32], ticks: range) -> Picture:
    """The sound of the frames in `ticks`, with a line under the middle of every picture."""
    width = TILE_PX * len(ticks)
    picture = np.full((WAVE_PX + TICKS_PX, width, 3), PAPER, np.uint8)
    waveform = np.zeros(len(ticks) * ticks.step * SAMPLES_PER_FRAME, np.float32)
    part = samples[ticks.start * SAMPLES_PER_FRAME :][: len(waveform)]
    waveform[: len(part)] = part / max(1e-3, float(np.abs(samples).max()))
    bounds = np.linspace(0, len(waveform), width + 1).astype(int)
    for column, (first, last) in enumerate(pairwise(bounds)):
        low, high = waveform[first:last].min(), waveform[first:last].max()
        top, bottom = (round((1 - value) * (WAVE_PX - 1) / 2) for value in (high, low))
        picture[top : bottom + 1, column] = 70
    for index, tick in enumerate(ticks):
        at = TILE_PX * index
        cv2.line(picture, (at, 0), (at, WAVE_PX + 4), GREY, 1)
        if index % 4 == 0:
            text = f"{tick / FPS:.2f} s"
            cv2.putText(
                picture, text, (at + 2, WAVE_PX + 18), cv2.FONT_HERSHEY_SIMPLEX, 0.42, INK, 1, cv2.LINE_AA
            )
    return picture


def named(picture: Picture, name: str) -> Picture:
    """The picture with its name above it."""
    band = np.full((NAME_PX, picture.shape[1], 3), PAPER, np.uint8)
    cv2.putText(band, name, (4, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.45, INK, 1, cv2.LINE_AA)
    return np.concatenate([band, picture])


def sheet(result: Path, speaker: Path | None, arguments: argparse.Namespace) -> Picture:
    """The sheet of one result."""
    new = prepare(result, PREPARING, faces())
    samples = read_speech(result, video=new.info, frames=new.frames)
    if samples is None:
        raise SystemExit(f"{result}: has no sound")
    frames = arguments.columns * arguments.every
    first = loudest(samples, frames) if arguments.start is None else round(arguments.start * FPS)
    ticks = range(first, min(first + frames, new.frames), arguments.every)
    rows = [named(mouths(new, ticks), f"new: {result.stem}")]
    if speaker is not None:
        own = prepare(speaker, PREPARING, faces(), longest_s=new.frames / FPS)
        rows.insert(0, named(mouths(own, ticks), f"speaker: {speaker.stem}"))
    return np.concatenate([*rows, wave(samples, ticks)])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("results", type=Path, nargs="+", metavar="RESULT")
    parser.add_argument("--speaker", type=Path, nargs="+", default=[], metavar="VIDEO")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--columns", type=int, default=32)
    parser.add_argument("--every", type=int, default=2, help="frames of 25 a second from column to column")
    parser.add_argument("--start", type=float, help="seconds; otherwise the loudest stretch")
    arguments = parser.parse_args()
    speakers = {video.stem: video for video in arguments.speaker}
    arguments.out.mkdir(parents=True, exist_ok=True)
    for result in arguments.results:
        speaker = speakers.get(result.stem.split("__")[-1])
        made = sheet(result, speaker, arguments)
        target = arguments.out / f"{result.stem}.png"
        if not cv2.imwrite(str(target), made[..., ::-1]):
            raise SystemExit(f"{target}: cannot be written")
        print(target)


if __name__ == "__main__":
    main()
