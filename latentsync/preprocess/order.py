"""The steps of preprocessing, in order."""

from __future__ import annotations

from latentsync.preprocess.align_face import AlignFace
from latentsync.preprocess.cut_segments import CutSegments
from latentsync.preprocess.keep_face import KeepFace
from latentsync.preprocess.measure_quality import MeasureQuality
from latentsync.preprocess.measure_sync import MeasureSync
from latentsync.preprocess.read_video import ReadVideo
from latentsync.preprocess.save_features import SaveFeatures
from latentsync.preprocess.split_shots import SplitShots
from latentsync.preprocess.step import Step
from latentsync.preprocess.write_clip import WriteClip
from latentsync.recipe.preprocess import PreprocessRecipe


def build_steps(recipe: PreprocessRecipe, *, device: str) -> list[Step]:
    """The steps that `recipe` asks for. Each worker calls `start` of every one before the first source.

    Source: the order is that of the paper, section 3.3, but for the cut into segments: faces are aligned
    first, because a frame is let go as soon as its crop is there, and crops are all that is held in memory.
    """
    steps: list[Step] = [
        ReadVideo(recipe.read, min_s=recipe.cut.min_s),
        SplitShots(recipe.shots),
        AlignFace(recipe.align, with_boxes=recipe.sync.adjust == "before"),
        CutSegments(recipe.cut),
        KeepFace(recipe.face),
        MeasureSync(recipe.sync, device=device),
        MeasureQuality(recipe.quality, device=device),
        WriteClip(recipe.encoding, recipe.split),
    ]
    if recipe.features.mel or recipe.features.whisper != "none":
        steps.append(SaveFeatures(recipe.features, device=device))
    return steps
