"""Muon for weights that are matrices or convolutions, AdamW for everything else, as one optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor, nn

# Coefficients of the Newton-Schulz iteration, and how often it runs. Source: Jordan et al. 2024.
SERIES, ITERATIONS = (3.4445, -4.7750, 2.0315), 5
MOMENTUM = 0.95
MATCHED_RMS = 0.2  # size of an update, by which learning rates mean what they mean for AdamW
EPSILON = 1e-8


class Muon(torch.optim.Optimizer):
    """Orthogonalises the momentum of every weight, taken as a matrix (out, in·h·w).

    `torch.optim.Muon` takes matrices only; here convolutions are taken too, and biases and norms by AdamW in
    the same state. Not for sharded parameters: a shard has no orthogonal form of its own.

    Source: Jordan et al. 2024, "Muon"; the size of an update after Liu et al. 2025, "Muon is scalable".

    Args:
        parameters: all that are trained.
        lr, betas, weight_decay: as for AdamW; the betas are for what is no matrix.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        lr: float,
        betas: tuple[float, float],
        weight_decay: float,
    ) -> None:
        given = list(parameters)
        groups = [
            {"params": [each for each in given if (each.ndim > 1) == is_matrix], "is_matrix": is_matrix}
            for is_matrix in (True, False)
        ]
        defaults = {"lr": lr, "betas": betas, "weight_decay": weight_decay}
        super().__init__([group for group in groups if group["params"]], defaults)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Take one step; `closure` is what torch's optimizers take, and None as a rule."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    # Decoupled from the gradient, as in AdamW.
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    change = _matrix_change if group["is_matrix"] else _adam_change
                    parameter.sub_(
                        group["lr"] * change(parameter.grad, self.state[parameter], group["betas"])
                    )
        return loss


def _matrix_change(gradient: Tensor, state: dict[str, Any], betas: tuple[float, float]) -> Tensor:
    if not state:
        state["momentum"] = torch.zeros_like(gradient)
    momentum: Tensor = state["momentum"]
    momentum.lerp_(gradient, 1 - MOMENTUM)
    # Nesterov's look ahead, as in the source.
    ahead = gradient.lerp(momentum, MOMENTUM).flatten(1)  # out in
    # An orthogonal matrix has an RMS of 1 / sqrt(longer side); this makes it the same for every shape.
    size = MATCHED_RMS * max(ahead.shape) ** 0.5
    change: Tensor = (size * orthogonal(ahead)).view_as(gradient).to(gradient)
    return change


def _adam_change(gradient: Tensor, state: dict[str, Any], betas: tuple[float, float]) -> Tensor:
    if not state:
        state.update(step=torch.zeros(()), mean=torch.zeros_like(gradient), square=torch.zeros_like(gradient))
    state["step"] += 1
    state["mean"].lerp_(gradient, 1 - betas[0])
    state["square"].lerp_(gradient.square(), 1 - betas[1])
    # Both start at zero; the division undoes that bias of the first steps.
    mean, square = (
        state[name] / (1 - beta ** float(state["step"]))
        for name, beta in zip(("mean", "square"), betas, strict=True)
    )
    return torch.as_tensor(mean / (square.sqrt() + EPSILON))


def orthogonal(matrix: Tensor) -> Tensor:
    """About the orthogonal matrix next to `matrix` (rows columns): its singular values become 0.7 to 1.2."""
    first, second, third = SERIES
    # The square below has the side of the rows, so the shorter side is the cheaper one.
    wide = matrix.mT if matrix.shape[0] > matrix.shape[1] else matrix
    # The iteration needs singular values of at most 1, and the Frobenius norm is at least the largest.
    made = wide.float() / (wide.float().norm() + EPSILON)
    for _ in range(ITERATIONS):
        square = made @ made.mT
        # One step of the fifth-order polynomial that pushes all singular values towards 1.
        made = first * made + (second * square + third * square @ square) @ made
    return torch.as_tensor(made.mT if matrix.shape[0] > matrix.shape[1] else made)
