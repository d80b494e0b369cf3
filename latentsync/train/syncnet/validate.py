"""How well a SyncNet tells right from wrong speech in clips of people that it was not trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from latentsync.manifest import ManifestClip
from latentsync.models.vae import FaceVAE
from latentsync.recipe.networks import SyncNetConfig
from latentsync.recipe.train_syncnet import SyncNetRecipe
from latentsync.train.clips import random_of_sample
from latentsync.train.loop import Check
from latentsync.train.losses import sync_loss
from latentsync.train.syncnet.data import ClipWindows
from latentsync.train.syncnet.objective import network_input

MAX_SHIFT = 15
FAR_FRAMES = 3  # pairs nearer than this may both look right
LEAST_PAIRS = 6  # of one shift, for its mean to be believed
WITHIN_FRAMES = 1


def choose_evenly(clips: Sequence[ManifestClip], count: int) -> list[ManifestClip]:
    """`count` of the clips, spread over the whole list.

    >>> choose_evenly("abcdefgh", 4)
    ['a', 'c', 'e', 'g']
    """
    count = min(count, len(clips))
    return [clips[number * len(clips) // count] for number in range(count)]


def make_validate(
    recipe: SyncNetRecipe,
    clips: Sequence[ManifestClip],
    compare: Callable[[nn.Module, ManifestClip], Tensor],
) -> Callable[[nn.Module, Check], list[dict[str, float]]]:
    """What the loop calls to validate: measures of every clip of this process's share.

    Args:
        compare: gives the cosines (n n) of a clip's windows, frames by speech.
    """
    chosen = choose_evenly(clips, recipe.validation.clips)

    def validate(model: nn.Module, check: Check) -> list[dict[str, float]]:
        measured = []
        rounds = -(-len(chosen) // check.processes)
        for number in range(rounds):
            place = number * check.processes + check.rank
            # Every process calls the model equally often: sharded weights are gathered by all together.
            cosines = compare(model, chosen[min(place, len(chosen) - 1)])
            if place < len(chosen):
                measured.append(measure(cosines, number=place, seed=recipe.seed))
        return measured

    return validate


def compare_windows(
    model: nn.Module,
    clip: ManifestClip,
    source: ClipWindows,
    recipe: SyncNetRecipe,
    network: tuple[SyncNetConfig, FaceVAE | None],
) -> Tensor:
    """Cosines (n n) of frames by speech, for windows one frame apart from the middle of the clip."""
    wanted = recipe.validation.windows_per_clip
    starts = source.starts_in(clip)
    count = min(wanted, starts)
    first = (starts - count) // 2
    length = source.windows.frames + count - 1
    frames_u8 = torch.from_numpy(source.frames_at(clip, first, frames=length))  # f h w c
    windows = frames_u8.unfold(0, source.windows.frames, 1).movedim(-1, 1)  # n f h w c
    mel = torch.stack([source.mel_at(clip, first + number) for number in range(count)])[:, None]  # n 1 d t
    device = next(model.parameters()).device
    # A short clip repeats its last window, so that every clip is as many calls.
    places = [min(number, count - 1) for number in range(wanted)]
    seen, heard = [], []
    for part in torch.tensor(places).split(max(8, recipe.run.micro_batch_samples)):
        given = network_input(windows[part].to(device), *network)
        answers = model(given, mel[part].to(device))
        seen.append(answers[0].float().cpu())
        heard.append(answers[1].float().cpu())
    return torch.cat(seen)[:count] @ torch.cat(heard)[:count].T


def measure(cosines: Tensor, *, number: int, seed: int) -> dict[str, float]:
    """What cosines (n n) of frames by speech, one frame apart, say about the network.

    Returns:
        loss, accuracy     of right pairs and as many wrong ones from anywhere else in the clip; a cosine over
                           0.5 says that a pair is right. Source: the official accuracy
        balanced_accuracy  how often the right speech is nearer than a wrong one at least 3 frames away: by
                           chance 0.5
        offset_accuracy    1 if the shift of the nearest speech, of -15..15, is within one frame of 0, else 0
        cosine_by_shift/…  the mean cosine at each shift
    """
    count = len(cosines)
    random = random_of_sample(number, "validation", seed=seed)
    others = (np.arange(count) + random.integers(1, max(2, count), count)) % count
    right, wrong = cosines.diagonal(), cosines[torch.arange(count), torch.from_numpy(others)]
    loss = sync_loss(right, torch.ones(count)).mean() + sync_loss(wrong, torch.zeros(count)).mean()
    accuracy = (right > 0.5).float().mean() + (wrong <= 0.5).float().mean()
    measured = {"loss": loss.item() / 2, "accuracy": accuracy.item() / 2}
    places = torch.arange(count)
    is_far = (places[:, None] - places).abs() >= FAR_FRAMES
    if is_far.any():
        difference = (right[:, None] - cosines)[is_far]
        measured["balanced_accuracy"] = ((difference > 0).float() + 0.5 * (difference == 0)).mean().item()
    by_shift = {
        shift: cosines.diagonal(shift).mean().item()
        for shift in range(-MAX_SHIFT, MAX_SHIFT + 1)
        if count - abs(shift) >= LEAST_PAIRS
    }
    if by_shift:
        best = max(by_shift, key=lambda shift: (by_shift[shift], -abs(shift)))
        is_varied = max(by_shift.values()) > min(by_shift.values())
        measured["offset_accuracy"] = float(is_varied and abs(best) <= WITHIN_FRAMES)
    return measured | {f"cosine_by_shift/{shift:+03d}": value for shift, value in by_shift.items()}
