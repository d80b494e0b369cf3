"""Knows a network by its keys, so that a refusal can say what a file is and what to do with it."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from latentsync.weights.read import Content, name_keys

PULL = "`latentsync models pull latentsync-1.5` gets a U-Net that fits"
EVALUATION = (
    "it belongs to `latentsync evaluate`, which finds it in the cache after `latentsync models pull {}`"
)
OTHER_PROJECT = f"it belongs to another project and does not fit here; {PULL}"
BARE = "save its `state_dict` alone, without the prefix, or give the file that was released"


@dataclass(frozen=True, slots=True)
class Identity:
    """What a file seems to be.

    what  follows "it": "seems to be a VAE"
    use   what to do instead
    """

    what: str
    use: str


# What a network is, what to do with its file, and patterns of keys that it alone has together.
MARKS = (
    (
        "a LatentSync SyncNet",
        "convert it with `latentsync models import`; it judges, while --model takes a U-Net",
        r"^audio_encoder\.conv_in\.weight$",
    ),
    ("the SyncNet v2 judge", EVALUATION.format("syncnet-v2"), r"^netcnnaud\.0\.weight$"),
    (
        "a Whisper model (OpenAI layout)",
        "put it beside the U-Net as whisper/tiny.pt, or convert it with `latentsync models import`",
        r"^encoder\.positional_embedding$",
    ),
    (
        "a Whisper model (Hugging Face layout)",
        "OpenAI's tiny.pt goes beside the U-Net as whisper/tiny.pt: `latentsync models pull whisper-tiny`",
        r"^(encoder\.)?embed_positions\.weight$",
    ),
    ("a whole Stable Diffusion checkpoint", OTHER_PROJECT, r"diffusion_model\.input_blocks\.0\.0\.weight$"),
    (
        "a VAE (original Stable Diffusion layout)",
        "the diffusers layout is read: `latentsync models pull sd-vae-ft-mse`",
        r"^(first_stage_model\.)?encoder\.down\.0\.block\.0\.conv1\.weight$",
    ),
    (
        "a VAE",
        "put it beside the U-Net as sd-vae-ft-mse/diffusion_pytorch_model.safetensors",
        r"^encoder\.down_blocks\.0\.resnets\.0\.conv1\.weight$",
    ),
    ("a small VAE", f"it goes with the compact model; {PULL}", r"^decoder\.layers\.0\.weight$"),
    ("VideoMAE v2", EVALUATION.format("videomae-v2"), r"^blocks\.0\.attn\.q_bias$"),
    ("I3D", EVALUATION.format("i3d"), r"^(Mixed_3b|Conv3d_1a_7x7|conv3d_1a_7x7)\."),
    (
        "the S3FD face detector",
        "nothing here needs it: faces are found by a detector that is in the package",
        r"^(vgg\.0\.weight|conv3_3_norm\.weight|L2Norm3_3\.weight)$",
        r"^(extras\.0|conv6_1|loc\.0)\.",
    ),
    (
        "the FAN landmark network",
        "it is found in torch's own cache after `latentsync models pull fan`",
        r"^m0\.b1_4\.",
        r"^bl0\.",
    ),
    ("HyperIQA", EVALUATION.format("hyperiqa"), r"^(res\.)?lda1_pool\.0\.weight$", r"^fc1w_conv\.weight$"),
    ("LPIPS or a VGG network", EVALUATION.format("vgg-lpips"), r"^(features\.0|lin0\.model\.1)\.weight$"),
    ("FaceNet", EVALUATION.format("facenet"), r"^repeat_3\.0\.branch0\.conv\.weight$"),
    ("an Inception network", EVALUATION.format("inception"), r"^Mixed_5b\.branch1x1\."),
)


def identify(content: Content) -> Identity | None:
    """Say which other network a file holds, by its keys and what lies beside them; None: none that is known.

    >>> identify(Content({"netcnnaud.0.weight": None}, {})).what
    'seems to be the SyncNet v2 judge'
    """
    keys, beside = content.tensors.keys(), content.beside
    if {"optimizer", "step"} <= beside.keys():
        return Identity("is the state of a training run", "give the .safetensors file that the run wrote")
    if "module.conv_in.weight" in keys:
        return Identity(
            "has keys that begin with 'module.', as saved from inside DistributedDataParallel", BARE
        )
    bare = {re.sub(r"^(module|model)\.", "", key) for key in keys}
    for what, use, *patterns in MARKS:
        if all(any(re.search(pattern, key) for key in bare) for pattern in patterns):
            return Identity(f"seems to be {what}", use)
    return None


def describe_unknown(keys: Collection[str]) -> Identity:
    """Describe a file that `identify` does not know."""
    return Identity(f"is unknown, with keys {name_keys(set(keys))}", PULL)
