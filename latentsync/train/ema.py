"""The moving average of the weights, which judges and users get."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """Exponential moving average of parameters, kept beside them, sharded as they are.

    Args:
        parameters: those of the wrapped model, which are followed from their present values.
        decay: share of the old average that each step keeps; less at first, so that the start is forgotten.
            With 0 the average is the weights themselves, and nothing is kept.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], decay: float) -> None:
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad and decay]
        self.means: list[Tensor] = [parameter.detach().clone() for parameter in self.parameters]
        self.decay = decay

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take the weights after optimizer step `step`, 1 first, into the average."""
        kept = min(self.decay, (1 + step) / (10 + step))
        for mean, now in zip(self.means, self.parameters, strict=True):
            mean.lerp_(now.detach(), 1 - kept)

    @torch.no_grad()
    def restart(self) -> None:
        """Take the present weights as the average."""
        for mean, now in zip(self.means, self.parameters, strict=True):
            mean.copy_(now.detach())

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Give the model the averaged weights for a while."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for mean, now in zip(self.means, self.parameters, strict=True):
            kept = now.detach().clone()
            now.copy_(mean)
            mean.copy_(kept)
