"""The audio adapter of the compact model: Whisper states around one frame to a few tokens and one summary."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from latentsync.axes import expect_axes

STATES = 5  # encoder states that the Whisper features hold per step
STEPS = 10  # audio steps, of 20 ms, around one frame


class AudioAdapter(nn.Module):
    """Mixes the states of each step, adds a learnt position, and lets the steps attend to each other.

    The paper feeds the raw states to the U-Net's cross-attention, whose tokens carry no position;
    a large network learns around that, a small one does not.

    Source: ours.
    """

    def __init__(self, *, states_dim: int, dim: int, layers: int = 2, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(states_dim)
        self.mix = nn.Linear(STATES * states_dim, dim)
        # The position of each step; weights files have this key.
        self.place = nn.Parameter(torch.randn(STEPS, dim) * 0.02)
        layer = nn.TransformerEncoderLayer(
            dim,
            nhead=4,
            dim_feedforward=2 * dim,
            dropout=dropout,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.norm_out = nn.LayerNorm(dim)

    def forward(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """Map Whisper tokens (n 50 d), time-major and layer-minor, to (n 10 dim) and summaries (n dim)."""
        expect_axes(audio, "n t d", t=STEPS * STATES)
        steps = self.norm(audio.unflatten(1, (STEPS, STATES))).flatten(2)  # n steps 5·d
        tokens: Tensor = self.norm_out(self.layers(self.mix(steps) + self.place))
        return tokens, tokens.mean(dim=1)
