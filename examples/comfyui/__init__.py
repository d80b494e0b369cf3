"""A ComfyUI node: frames and speech in, frames with a mouth that follows the speech out."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch

import latentsync

MODELS = ["compact", "latentsync-1.5", "latentsync-1.6"]


@lru_cache(maxsize=1)
def loaded(name: str) -> latentsync.Model:
    return latentsync.load(name)


class LatentSyncNode:
    CATEGORY = "audio"
    FUNCTION = "sync"
    RETURN_TYPES = ("IMAGE",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "images": ("IMAGE",),
                "audio": ("AUDIO",),
                "fps": ("FLOAT", {"default": 25.0, "min": 1.0, "max": 120.0}),
                "model": (MODELS,),
                "face": ("STRING", {"default": "largest"}),
                "seed": ("INT", {"default": 1247, "min": 0, "max": 2**31 - 1}),
            }
        }

    def sync(
        self, images: torch.Tensor, audio: dict[str, Any], fps: float, model: str, face: str, seed: int
    ) -> tuple[torch.Tensor]:
        """Images are (f h w c) in 0..1; the waveform is (batch channels samples): its first one counts."""
        speech = audio["waveform"][0].T.numpy()  # samples channels
        frames = loaded(model).frames(
            images.clamp(0, 1).numpy(), speech, fps=fps, speech_hz=audio["sample_rate"], face=face, seed=seed
        )
        made = np.stack(list(frames))  # f h w c
        return (torch.from_numpy(made).float() / 255,)


NODE_CLASS_MAPPINGS = {"LatentSync": LatentSyncNode}
NODE_DISPLAY_NAME_MAPPINGS = {"LatentSync": "LatentSync"}
