"""What landmarks tell about the mouth: how far it opens, with whose speech, and during silence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray

from latentsync.audio.activity import runs
from latentsync.faces.align import WINDOW_HEIGHT, WINDOW_WIDTH
from latentsync.faces.landmarks import lip_openings
from latentsync.metrics.metric import ClipMetric, Missing, Need, Points, ScoredClip, Value
from latentsync.rates import SAMPLES_PER_FRAME, VIDEO_FPS

MOUTH = slice(48, 68)
LARGEST_LAG_FRAMES = 3
LEAST_FRAMES = 10
LEAST_SILENT_STEPS = 5
LMD_SIDE_PX = 256
OPEN_SHARE = 0.5  # ours: of the input's mean opening
# Ours: a mouth whose openings have a smaller standard deviation counts as still. Compression moves the points
# of a still picture by 0.0001 to 0.0005, and quiet speakers open their mouths by 0.02.
STILL = 0.002

Series = NDArray[np.float64]  # (f,) at 25 fps, NaN where no face was found


def openings(points: Points) -> Series:
    """How far the mouth is open in each frame: distance of the inner lips over that of the eyes' centres.

    Points are those of the square crop; the squeeze from the upright face box is undone first.
    """
    return lip_openings(points * np.array([WINDOW_WIDTH / WINDOW_HEIGHT, 1.0]))


def correlation(one: Series, other: Series) -> float:
    """Pearson's r over the frames that both have.

    0 if one of them is still, because such a mouth follows no speech; NaN for fewer than ten frames.
    """
    length = min(len(one), len(other))
    one, other = one[:length], other[:length]
    both = ~np.isnan(one) & ~np.isnan(other)
    if both.sum() < LEAST_FRAMES:
        return float("nan")
    one, other = one[both] - one[both].mean(), other[both] - other[both].mean()
    # Without this, the noise of a still mouth would correlate with anything.
    if min(one.std(), other.std()) < STILL:
        return 0.0
    return float((one * other).sum() / np.sqrt((one**2).sum() * (other**2).sum()))


def best_lag(late: Series, wanted: Series) -> tuple[float, int]:
    """The largest correlation within three frames, and by how many frames `late` lags behind there."""
    found = {
        lag: correlation(late[max(0, lag) :], wanted[max(0, -lag) :])
        for lag in range(-LARGEST_LAG_FRAMES, LARGEST_LAG_FRAMES + 1)
    }
    # Of equal correlations the smallest lag wins, so that silence on both sides is no delay.
    lag = max(found, key=lambda each: (-np.inf if np.isnan(found[each]) else found[each], -abs(each)))
    return found[lag], lag


@dataclass(frozen=True, slots=True)
class Aperture(ClipMetric):
    """Whether the mouth opens when that of the speaker did; from landmarks alone.

    `aperture_chance` is the best correlation of the input's own mouth with the speaker's: what two unrelated
    videos reach. It is left out if the input is the speaker.
    """

    name: ClassVar[str] = "aperture"
    revision: ClassVar[str] = "2"
    values: ClassVar[tuple[Value, ...]] = (
        Value("aperture_r", "", "higher"),
        Value("aperture_best", "", "higher"),
        Value("aperture_lag", "frames", "real"),
        Value("aperture_chance", "", "real", "reconstruction: the input is the speaker"),
    )
    needs: ClassVar[tuple[Need, ...]] = ("points", "speaker")

    def score(self, clip: ScoredClip) -> dict[str, float] | Missing:
        if clip.made_points is None:
            return NO_POINTS
        if clip.speaker_points is None:
            return Missing("no_speaker", "the speech came without a face")
        made, wanted = openings(clip.made_points), openings(clip.speaker_points)
        best, lag = best_lag(made, wanted)
        if np.isnan(best):
            return _too_few(made, wanted)
        scores = {"aperture_r": correlation(made, wanted), "aperture_best": best, "aperture_lag": float(lag)}
        if clip.input_points is not None and not _is_same(clip.input_points, clip.speaker_points):
            scores["aperture_chance"] = best_lag(openings(clip.input_points), wanted)[0]
        return scores


@dataclass(frozen=True, slots=True)
class Leak(ClipMetric):
    """Whether the mouth opens when that of the input video did, which the network should not see.

    Undefined in reconstruction, where the input's own mouth is the right one.
    """

    name: ClassVar[str] = "leak"
    revision: ClassVar[str] = "2"
    values: ClassVar[tuple[Value, ...]] = (Value("leak_r", "", "real"),)
    needs: ClassVar[tuple[Need, ...]] = ("points", "input")

    def score(self, clip: ScoredClip) -> dict[str, float] | Missing:
        pair = _made_and_own(clip)
        if isinstance(pair, Missing):
            return pair
        made, own = pair
        found = correlation(made, own)
        return _too_few(made, own) if np.isnan(found) else {"leak_r": found}


@dataclass(frozen=True, slots=True)
class LipLeak(ClipMetric):
    """In how many silent frames the mouth stands open although the speech is silent, because the input talks.

    A frame counts as open if its mouth is open more than half as far as the input's is on average. Undefined
    in reconstruction, where the input's mouth is silent too, and for an input that does not talk.

    Source: after LipLeak (KeySync, 2025), the share of frames that talk although the audio is silence. Ours:
    it takes the pauses of the speech, not a second run with silence; our landmarks and threshold.
    """

    name: ClassVar[str] = "lip_leak"
    values: ClassVar[tuple[Value, ...]] = (Value("lip_leak", "", "lower"),)
    needs: ClassVar[tuple[Need, ...]] = ("points", "input")

    def score(self, clip: ScoredClip) -> dict[str, float] | Missing:
        pair = _made_and_own(clip)
        if isinstance(pair, Missing):
            return pair
        made, own = pair
        if np.isnan(own).all() or np.nanstd(own) < STILL:
            return Missing("no_motion", "the input's mouth is still, or not seen")
        counts = silent_frames(clip.speech, frames=len(made)) & ~np.isnan(made)
        if counts.sum() < LEAST_SILENT_STEPS:
            return Missing("no_silence", f"{counts.sum()} silent frames < {LEAST_SILENT_STEPS}")
        return {"lip_leak": float((made[counts] > OPEN_SHARE * np.nanmean(own)).mean())}


def _made_and_own(clip: ScoredClip) -> tuple[Series, Series] | Missing:
    """The openings of the generated mouth and of the input's own, which should not be the same."""
    if clip.made_points is None or clip.input_points is None:
        return NO_POINTS
    if clip.speaker_points is not None and _is_same(clip.input_points, clip.speaker_points):
        return Missing("reconstruction", "the input's own mouth is the one to be made")
    return openings(clip.made_points), openings(clip.input_points)


@dataclass(frozen=True, slots=True)
class LandmarkDistance(ClipMetric):
    """Distance of the mouth's points from those of the reference, with the centres of both mouths aligned.

    Source: LMD of Chen et al. (2018), "Lip Movements Generation at a Glance", with 20 points of the lips.
    """

    name: ClassVar[str] = "lmd"
    values: ClassVar[tuple[Value, ...]] = (Value("lmd", "px of 256", "lower"),)
    needs: ClassVar[tuple[Need, ...]] = ("points", "real")

    def score(self, clip: ScoredClip) -> dict[str, float] | Missing:
        if clip.made_points is None or clip.real_points is None:
            return NO_POINTS
        length = min(len(clip.made_points), len(clip.real_points))
        made, real = (
            points[:length, MOUTH] - points[:length, MOUTH].mean(1, keepdims=True, dtype=np.float64)
            for points in (clip.made_points, clip.real_points)
        )
        by_frame = np.linalg.norm(made - real, axis=2).mean(1)
        known = by_frame[~np.isnan(by_frame)]
        if len(known) == 0:
            return _too_few(by_frame, by_frame)
        return {"lmd": float(known.mean()) * LMD_SIDE_PX / clip.side_px}


@dataclass(frozen=True, slots=True)
class SilenceMotion(ClipMetric):
    """How much the mouth moves in silence, as a share of how much it moves in speech.

    Source: the idea is LipLeak's, which drives a talking video with silence; this one needs no second run.
    """

    name: ClassVar[str] = "silence_motion"
    revision: ClassVar[str] = "2"
    values: ClassVar[tuple[Value, ...]] = (Value("silence_motion", "", "lower"),)
    needs: ClassVar[tuple[Need, ...]] = ("points",)

    def score(self, clip: ScoredClip) -> dict[str, float] | Missing:
        if clip.made_points is None:
            return NO_POINTS
        made = openings(clip.made_points)
        is_silent = silent_frames(clip.speech, frames=len(made))
        steps = np.abs(np.diff(made))
        known = ~np.isnan(steps)
        in_silence = steps[known & is_silent[1:] & is_silent[:-1]]
        in_speech = steps[known & ~is_silent[1:] & ~is_silent[:-1]]
        if len(in_silence) < LEAST_SILENT_STEPS:
            return Missing("no_silence", f"{len(in_silence)} silent steps < {LEAST_SILENT_STEPS}")
        if len(in_speech) < LEAST_SILENT_STEPS or np.nanstd(made) < STILL:
            return Missing("no_motion", f"{len(in_speech)} steps in speech, or a still mouth")
        return {"silence_motion": float(in_silence.mean() / in_speech.mean())}


@dataclass(frozen=True, slots=True)
class Teeth(ClipMetric):
    """In how many frames teeth show: bright, colourless pixels between the inner lips.

    Generated mouths that never show teeth, or always do, look wrong whatever their timing.

    Source: ours.
    """

    name: ClassVar[str] = "teeth"
    values: ClassVar[tuple[Value, ...]] = (Value("teeth_rate", "", "real"),)
    needs: ClassVar[tuple[Need, ...]] = ("points",)

    def score(self, clip: ScoredClip) -> dict[str, float] | Missing:
        if clip.made_points is None:
            return NO_POINTS
        shows = [
            _shows_teeth(crop_u8, points)
            for crop_u8, points in zip(clip.made_u8, clip.made_points, strict=False)
            if np.isfinite(points).all()
        ]
        if len(shows) < LEAST_FRAMES:
            return Missing("too_short", f"{len(shows)} frames with a face < {LEAST_FRAMES}")
        return {"teeth_rate": float(np.mean(shows))}


INNER_MOUTH = slice(60, 68)
NOSE = slice(27, 36)
# Of pixels between the inner lips. Ours: lips and tongue have a saturation above 0.4, and the dark of an open
# mouth is far below half of the skin's brightness.
TOOTH_SATURATION, TOOTH_BRIGHTNESS, TOOTH_SHARE = 0.35, 0.5, 0.15
LEAST_MOUTH_PX = 12


def _shows_teeth(crop_u8: NDArray[np.uint8], points: NDArray[np.float32]) -> bool:
    """Whether enough of the inner mouth of a crop (h w c) has the colour of teeth; compared with the nose."""
    inside = np.zeros(crop_u8.shape[:2], np.uint8)
    cv2.fillPoly(inside, [np.rint(points[INNER_MOUTH]).astype(np.int32)], 1)
    mouth = crop_u8[inside > 0].astype(np.float64)  # n c
    if len(mouth) < LEAST_MOUTH_PX:
        return False
    columns, rows = np.rint(points[NOSE]).astype(int).clip(0, len(crop_u8) - 1).T
    skin = np.median(crop_u8[rows, columns].max(1))
    brightest, darkest = mouth.max(1), mouth.min(1)
    is_tooth = (brightest > TOOTH_BRIGHTNESS * skin) & (
        brightest - darkest < TOOTH_SATURATION * np.maximum(brightest, 1)
    )
    return bool(is_tooth.mean() >= TOOTH_SHARE)


NO_POINTS = Missing("no_points", "no landmarks were found")


def _is_same(one: Points, other: Points) -> bool:
    return one is other or np.array_equal(one, other, equal_nan=True)


def _too_few(one: Series, other: Series) -> Missing:
    seen = min(int((~np.isnan(series)).sum()) for series in (one, other))
    return Missing("too_short", f"{seen} frames with a face < {LEAST_FRAMES}")


BELOW_SPEECH_DB = 35.0
FLOOR_RMS = 1e-4  # -80 dB of full scale: silent, however quiet the rest is
LOUD_PERCENTILE = 95
LEAST_SILENCE_S = 0.2
SMOOTHED_FRAMES = 3


def silent_frames(samples: NDArray[np.float32], *, frames: int) -> NDArray[np.bool_]:
    """Tell for each of `frames` frames (f,) whether it is silent.

    The level of a frame is the RMS of the audio while it is shown, smoothed over three frames. The frame is
    silent if that is more than 35 dB below the 95th percentile of the clip, or below -80 dB of full scale,
    for at least 0.2 s. Frames after the end of the audio are silent.

    Source: ours, because a threshold relative to the speech needs no network and fits any recording level.
    """
    levels = np.sqrt(_smoothed(_power(samples, frames=frames)))
    sounding = levels[: max(1, len(samples) // SAMPLES_PER_FRAME)]
    loud = float(np.percentile(sounding, LOUD_PERCENTILE)) if len(sounding) else 0.0
    is_quiet = levels < max(loud * 10 ** (-BELOW_SPEECH_DB / 20), FLOOR_RMS)
    for first, stop in runs(is_quiet):
        if stop - first < round(LEAST_SILENCE_S * VIDEO_FPS):
            is_quiet[first:stop] = False
    return np.asarray(is_quiet)


def _power(samples: NDArray[np.float32], *, frames: int) -> Series:
    bounds = np.minimum(np.arange(frames + 1) * SAMPLES_PER_FRAME, len(samples))
    total = np.concatenate([[0.0], np.cumsum(samples.astype(np.float64) ** 2)])[bounds]
    return np.asarray(np.diff(total) / SAMPLES_PER_FRAME)


def _smoothed(power: Series) -> Series:
    reach = SMOOTHED_FRAMES // 2
    padded = np.pad(power, reach, mode="edge")  # zeros would make the first and last frame quiet
    return np.convolve(padded, np.full(SMOOTHED_FRAMES, 1 / SMOOTHED_FRAMES), "valid")
