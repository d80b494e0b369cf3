"""Looks at a SyncNet's run as it goes: pictures after each validation, a warning when it does not learn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from latentsync.events import Note, Report
from latentsync.manifest import ManifestClip
from latentsync.recipe.train_syncnet import SyncNetRecipe
from latentsync.train.log import Row
from latentsync.train.plots import draw_learning, draw_probabilities, draw_shifts
from latentsync.train.syncnet.objective import Pairs
from latentsync.train.syncnet.plateau import explain_plateau, find_plateau


class SyncNetWatch:
    """Draws the run after each row of the log, and says when it does not learn."""

    def __init__(
        self, recipe: SyncNetRecipe, clips: Sequence[ManifestClip], pairs: Pairs, output: Path, report: Report
    ) -> None:
        self.recipe, self.clips, self.pairs, self.report = recipe, clips, pairs, report
        self.folder = output / "pictures"
        self.is_stuck = False

    def __call__(self, rows: Sequence[Row]) -> None:
        negatives = self.recipe.negatives
        title = (
            f'negatives: policy "{negatives.policy}", at least {negatives.min_distance_frames} frames away'
        )
        if "validation" in rows[-1]:
            draw_learning(rows, self.folder / "learning.png", title=title)
            draw_probabilities(list(self.pairs), self.folder / "probabilities.png", title=title)
            cosines = {int(shift): value for shift, value in rows[-1].get("cosine_by_shift", {}).items()}
            draw_shifts(cosines, self.folder / "shifts.png", title=title)
            return
        plateau = find_plateau(rows)
        if plateau is not None and not self.is_stuck:
            checked = sum(clip.offset_frames is not None for clip in self.clips)
            picture = self.folder / f"plateau-{plateau.steps:06d}.png"
            stuck = f"stuck at {plateau.loss:.3f} after {plateau.samples} samples"
            draw_probabilities(list(self.pairs), picture, title=stuck)
            said = explain_plateau(plateau, self.recipe, clips=len(self.clips), checked=checked)
            self.report(Note(f"{said}\n  the predicted probabilities: {picture}", "warning"))
        self.is_stuck = plateau is not None
