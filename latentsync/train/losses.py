"""What training minimises."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

# Where the mouth lies in an aligned crop, as shares of its side. Source: landmarks of our clips.
MOUTH_ROWS = (0.5, 0.875)
MOUTH_COLUMNS = (0.25, 0.75)


def mouth_region(side: int) -> tuple[slice, slice]:
    """Rows and columns of the mouth in an aligned crop of `side` pixels or latents."""
    (top, bottom), (left, right) = MOUTH_ROWS, MOUTH_COLUMNS
    return slice(int(top * side), int(bottom * side)), slice(int(left * side), int(right * side))


def mouth_weights(mask: Tensor, *, mouth: float, kept: float) -> Tensor:
    """Weights (h w) of an aligned face: `mouth` where that is, 1 where else is generated, `kept` outside.

    Args:
        mask: (h w) in pixels of the face, 0 where it is generated.
    """
    weights = torch.where(mask < 0.5, 1.0, kept)
    weights[mouth_region(len(mask))] = mouth
    return weights


def reconstruction_loss(made: Tensor, real: Tensor, *, edge_weight: float) -> Tensor:
    """Mean absolute error of (b c h w), plus that of the edges at two scales, which keeps lip lines sharp.

    Source: ours; a perceptual network would need weights that cannot be bundled.
    """
    loss = functional.l1_loss(made, real)
    for scale in (1, 2):
        small_made, small_real = functional.avg_pool2d(made, scale), functional.avg_pool2d(real, scale)
        for axis in (2, 3):
            loss = loss + edge_weight * functional.l1_loss(
                small_made.diff(dim=axis), small_real.diff(dim=axis)
            )
    return loss


# A cosine of exactly 0 or 1 on the wrong side would make an infinite loss and no gradient.
COSINE_LIMIT = 1e-6


def sync_loss(cosine: Tensor, label: Tensor) -> Tensor:
    """Binary cross-entropy of cosines (b,) taken as the probability that speech and frames belong together.

    Computed in float32, with the cosine held within 1e-6 of 0 and 1, so that it is always finite; the
    gradient passes, so a cosine beyond them is pulled back. Per item, not averaged.

    Args:
        label: (b,) 1 where they belong together, else 0.

    Source: the paper, section 3.3; the limits are ours, where the reference takes any cosine.
    """
    # Half precision has no number between 1 and 0.9995, so the limit would round to 1.
    cosine, label = cosine.float(), label.float()
    held = cosine + (cosine.clamp(COSINE_LIMIT, 1 - COSINE_LIMIT) - cosine).detach()  # the gradient passes
    return functional.binary_cross_entropy(held, label, reduction="none")


def matrix_losses(cosines: Tensor, is_negative: Tensor, *, temperature: Tensor) -> dict[str, Tensor]:
    """Both losses of windows against the speech of all windows of their clip.

    Args:
        cosines: (b n n) frames by speech; what belongs together is on the diagonal.
        is_negative: (b n n) pairs that are far enough apart to be wrong.
        temperature: of the contrastive loss, a positive scalar.

    Returns:
        `bce`, where right and wrong pairs have half the weight each, `contrastive`, which takes both ways
        round, and `chance`, what `contrastive` is without any knowledge. All are means over clips.

    Source: ours; hundreds of pairs cost one window each to embed.
    """
    count = cosines.shape[1]
    is_right = torch.eye(count, dtype=torch.bool, device=cosines.device).expand_as(cosines)
    each = sync_loss(cosines, is_right)
    wrong = is_negative.float()
    right_bce = (each * is_right).sum((1, 2)) / count
    wrong_bce = (each * wrong).sum((1, 2)) / wrong.sum((1, 2)).clamp(min=1)
    # Windows nearer than the least distance are neither right nor wrong: they leave the softmax.
    scores = (cosines.float() / temperature).masked_fill(~(is_right | is_negative), -torch.inf)
    target = torch.arange(count, device=cosines.device).expand(len(cosines), -1)
    ways = [functional.cross_entropy(way, target) for way in (scores, scores.mT)]
    # Without knowledge the right window and all wrong ones are equally likely.
    chance = (1 + wrong.sum(2)).log().mean()
    return {
        "bce": (right_bce + wrong_bce).mean() / 2,
        "contrastive": (ways[0] + ways[1]) / 2,
        "chance": chance,
    }
