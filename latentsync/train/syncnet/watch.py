"""Watches a SyncNet's training: pictures after each validation, a warning when the loss stays at chance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from latentsync.events import Note, Report
from latentsync.files import whole_or_nothing
from latentsync.manifest import ManifestClip
from latentsync.recipe.train_syncnet import SyncNetRecipe
from latentsync.train.log import Row, new_figure, save_figure
from latentsync.train.syncnet.objective import Pairs


class SyncNetWatch:
    """Draws the run after each row of the log, and warns once when it does not learn."""

    def __init__(
        self, recipe: SyncNetRecipe, clips: Sequence[ManifestClip], pairs: Pairs, output: Path, report: Report
    ) -> None:
        self.recipe, self.clips, self.pairs, self.report = recipe, clips, pairs, report
        self.folder = output / "pictures"
        self.is_stuck = False
        self._kept = 0

    def __call__(self, rows: Sequence[Row]) -> None:
        self._keep_probabilities(rows[-1]["steps"])
        negatives = self.recipe.negatives
        title = (
            f'negatives: policy "{negatives.policy}", at least {negatives.min_distance_frames} frames away'
        )
        if "validation" in rows[-1]:
            draw_learning(rows, self.folder / "learning.png", title=title)
            draw_probabilities(list(self.pairs), self.folder / "probabilities.png", title=title)
            cosines = {int(shift): value for shift, value in rows[-1].get("cosine_by_shift", {}).items()}
            draw_shifts(cosines, self.folder / "shifts.png", title=title)
            animate(self.folder / "probabilities", self.folder / "probabilities.gif")
            return
        plateau = find_plateau(rows)
        if plateau is not None and not self.is_stuck:
            checked = sum(clip.offset_frames is not None for clip in self.clips)
            picture = self.folder / f"plateau-{plateau.steps:06d}.png"
            stuck = f"stuck at {plateau.loss:.3f} after {plateau.samples} samples"
            draw_probabilities(list(self.pairs), picture, title=stuck)
            explained = explain_plateau(plateau, self.recipe, clips=len(self.clips), checked=checked)
            self.report(Note(f"{explained}\n  the predicted probabilities: {picture}", "warning"))
        self.is_stuck = plateau is not None

    def _keep_probabilities(self, steps: int) -> None:
        """Draw the predicted probabilities every 100 optimizer steps and keep the picture."""
        if steps // KEEP_EVERY_STEPS > self._kept // KEEP_EVERY_STEPS:
            picture = self.folder / "probabilities" / f"step-{steps:07d}.png"
            draw_probabilities(list(self.pairs), picture, title=f"step {steps}")
            self._kept = steps


KEEP_EVERY_STEPS = 100
MOST_FRAMES, FRAME_MS = 200, 120  # of the animation; a longer run is shown by fewer of its pictures
CHANCE_LOSS = math.log(2)  # binary cross-entropy of answering 0.5 to every pair
MATCHING, MISMATCHED, GREY = "#1b7f5c", "#c2452d", "#888888"
ACCURACIES = ("accuracy", "balanced_accuracy", "offset_accuracy")
NEAR = 0.006  # a loss this close to chance cannot be told from noise
PATIENCE_ROWS = 8
PATIENCE_STEPS = 200  # every run starts at chance


@dataclass(frozen=True, slots=True)
class Plateau:
    """The last rows of the log show the loss at chance, `chance`."""

    loss: float
    chance: float
    samples: int
    steps: int


def find_plateau(rows: Sequence[Row]) -> Plateau | None:
    """The plateau that the log ends in, if it does.

    The loss of a row is `bce`, which is ln 2 by chance, or `contrastive`, whose chance is logged beside it.
    """
    last = [row for row in rows if "losses" in row][-PATIENCE_ROWS:]
    if len(last) < PATIENCE_ROWS or last[-1]["steps"] < PATIENCE_STEPS:
        return None
    losses, chances = zip(*(_loss_and_chance(row) for row in last), strict=True)
    if any(abs(loss - chance) > NEAR for loss, chance in zip(losses, chances, strict=True)):
        return None
    mean = math.fsum(losses) / len(losses)
    return Plateau(mean, chances[-1], last[-1]["samples"], last[-1]["steps"])


def explain_plateau(plateau: Plateau, recipe: SyncNetRecipe, *, clips: int, checked: int) -> str:
    """Explain a plateau: the likely causes, in the paper's order, with this run's values.

    Args:
        clips: number of clips that are trained on.
        checked: how many of them had the offset of their speech measured by `preprocess`.

    Source: the paper, section 3.3 and its figures: batch, frames, offset, data, architecture.
    """
    network, dimension = recipe.network, recipe.network.visual.channels[-1]
    attends = any(network.visual.attention) or any(network.audio.attention)
    kind = "Wav2Lip's blocks" if network.kind == "wav2lip" else "Stable Diffusion's blocks"
    distance = recipe.negatives.min_distance_frames
    causes = (
        f"batch: {recipe.run.batch_samples} samples; the paper was stuck with 128, unsure with 256, best with"
        " 1024 (run.batch_samples)",
        f"frames: {network.frames} a window; 16 was best, 25 stuck early, 5 worse (network.frames)",
        f"offset: {checked} of {clips} clips had their offset measured; unadjusted, or adjusted before the"
        " faces were aligned, the paper's clips trained badly (preprocess again)",
        f"data: {clips} clips; wrong pairs are at least {distance} frames apart"
        f' (negatives.policy = "{recipe.negatives.policy}"); more people and farther pairs are easier',
        f"architecture: {kind} {'with' if attends else 'without'} attention, {dimension} numbers out; best"
        " were Stable Diffusion's without attention and 2048; 512 was too few, 4096 and more did not learn",
    )
    listed = "".join(f"\n  {number}. {cause}" for number, cause in enumerate(causes, 1))
    return (
        f"the loss stays at {plateau.loss:.3f} after {plateau.samples} samples, which is chance"
        f" ({plateau.chance:.3f}): nothing has been learnt yet. Likely causes, the likeliest first:{listed}"
    )


def _loss_and_chance(row: Row) -> tuple[float, float]:
    losses = row["losses"]
    if "chance" in losses:
        return losses["contrastive"], losses["chance"]
    return losses["bce"], CHANCE_LOSS


def draw_learning(rows: Sequence[Row], path: Path, *, title: str) -> None:
    """Both loss curves above, accuracies below, against samples.

    Source: the paper's figures of SyncNet training; the grey line is the loss at chance.
    """
    figure = new_figure(8, 7)
    above, below = figure.subplots(2, 1, sharex=True)
    for table, style in (("losses", "-"), ("validation", "o-")):
        found = [row for row in rows if table in row]
        names = sorted({name for row in found for name in row[table]} - {*ACCURACIES, "chance", "accuracy"})
        for name in names:
            points = [(row["samples"], row[table][name]) for row in found if name in row[table]]
            label = f"{'validation' if table == 'validation' else 'training'} {name}"
            above.plot(*zip(*points, strict=True), style, label=label, markersize=3, linewidth=1)
    above.axhline(CHANCE_LOSS, color=GREY, linestyle="--", linewidth=1, label="chance (0.693)")
    for table, name in (("losses", "accuracy"), *(("validation", name) for name in ACCURACIES)):
        points = [(row["samples"], row[table][name]) for row in rows if name in row.get(table, {})]
        if points:
            label = f"{'validation' if table == 'validation' else 'training'} {name.replace('_', ' ')}"
            below.plot(*zip(*points, strict=True), "o-", label=label, markersize=3, linewidth=1)
    below.axhline(0.5, color=GREY, linestyle="--", linewidth=1)
    above.set(ylabel="loss", title=title)
    below.set(xlabel="samples", ylabel="accuracy", ylim=(0, 1.02))
    for axes in (above, below):
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=7)
    save_figure(figure, path)


def draw_probabilities(pairs: Sequence[tuple[float, float]], path: Path, *, title: str) -> None:
    """The probability that the network gives each pair: matching pairs are higher once it has learnt.

    Args:
        pairs: probability, and label 1 or 0.

    Source: the paper's figure 12.
    """
    figure = new_figure(7, 4.5)
    axes = figure.subplots()
    for label, name, colour in ((1.0, "belong together", MATCHING), (0.0, "do not", MISMATCHED)):
        points = [(number, value) for number, (value, own) in enumerate(pairs) if own == label]
        if points:
            numbers, values = zip(*points, strict=True)
            axes.scatter(numbers, values, s=6, color=colour, label=name, alpha=0.6)
    axes.axhline(0.5, color=GREY, linestyle="--", linewidth=1)
    axes.set(xlabel="pair", ylabel="predicted probability", ylim=(-0.02, 1.02), title=title)
    if pairs:
        axes.legend(fontsize=8)
    save_figure(figure, path)


def animate(folder: Path, path: Path) -> None:
    """Join the pictures of a folder, in the order of their names, to a GIF; without any, write nothing."""
    from PIL import Image

    pictures = sorted(folder.glob("step-*.png"))
    pictures = pictures[:: -(-len(pictures) // MOST_FRAMES) or 1]
    if not pictures:
        return
    frames = [Image.open(picture).convert("P") for picture in pictures]
    with whole_or_nothing(path) as part:
        frames[0].save(part, format="GIF", save_all=True, append_images=frames[1:], duration=FRAME_MS, loop=0)


def draw_shifts(cosines: dict[int, float], path: Path, *, title: str) -> None:
    """Mean cosine of frames and speech at each shift in frames: a narrow peak at 0 is wanted."""
    figure = new_figure(7, 4)
    axes = figure.subplots()
    shifts = sorted(cosines)
    axes.plot(shifts, [cosines[shift] for shift in shifts], "o-", color=MATCHING, markersize=4)
    axes.axvline(0, color=GREY, linestyle="--", linewidth=1)
    axes.set(xlabel="shift of the speech in frames", ylabel="mean cosine", title=title)
    save_figure(figure, path)
