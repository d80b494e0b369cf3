"""The configuration of each network: the table of a recipe, and what a weights file says of its network.

A network is described here and nowhere else. `models/*` are built from these tables, recipes hold them, and
checkpoints store them as JSON. Names that older files use are still read.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from latentsync.rates import mel_columns
from latentsync.recipe.schema import Count, Table

MASK_CHANNELS = 1
FOLD = 4  # a square of 4x4 pixels of a small picture lies in the channels of one latent
ATTENTION_HEADS = 8  # of every attention block in a SyncNet, as released
WAV2LIP_BLOCKS = {"visual": 7, "audio": 5}
FRAMEWISE_CONTEXT = 4  # frames that each of the two convolutions over time takes off a run
SMALLEST_SIDE_PX = 3  # Wav2Lip halves the picture until its side would fall below twice this

Widths = Annotated[tuple[Count, ...], Field(strict=False, min_length=1)]
Blocks = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(strict=False, min_length=1)]
Factor = Count | Annotated[tuple[Count, Count], Field(strict=False)]
Dropout = Annotated[float, Field(ge=0, lt=1)]


class UNetConfig(Table):
    """Sizes of the audio-conditioned U-Net.

    attention_levels    which levels, from the finest, attend to the audio; the middle block always does
    attention_head_dim  number of heads, as Stable Diffusion 1.5 misnames them: each has channels / 8
    norm_over           what ResNet statistics run over: all frames of the window, as released, or each frame
    audio_dim           width of a Whisper state
    adapter_dim         width of the `AudioAdapter` between the states and the attention; 0 for none
    motion              whether temporal layers (AnimateDiff's motion modules) attend between the frames
    motion_modules      where: behind all layers, or those of the decoder
    motion_max_frames   longest window that the positional table of the motion modules can tell apart
    view                what is generated of an aligned face, see `latentsync.diffusion.view`: all of it, or a
                        window of half its side around mouth and chin
    reference_residual  whether the network predicts a change to the reference, which a convolution of it
                        adds to the output; for prediction = "clean"
    warp_widths         widths of the levels of the network that warps the reference to the target's pose and
                        speech, the finest first; empty for none. See `latentsync.models.warp`
    latent_channels     of the autoencoder; training takes it from the VAE of the recipe
    """

    block_out_channels: Widths
    attention_levels: tuple[bool, ...] = Field(strict=False)
    layers_per_block: Count
    attention_head_dim: Count
    norm_num_groups: Count
    norm_over: Literal["window", "frame"]
    audio_dim: Count
    adapter_dim: Annotated[int, Field(ge=0)]
    motion: bool
    motion_modules: Literal["all", "decoder"]
    motion_max_frames: Count
    view: Literal["face", "mouth"]
    reference_residual: bool
    warp_widths: tuple[Annotated[int, Field(ge=8, multiple_of=8)], ...] = Field(strict=False)
    latent_channels: Count = 4

    @property
    def in_channels(self) -> int:
        """Noisy latents, mask, what is known of the target, and the reference: 13 for 4 latent channels."""
        known = 2 * 3 * FOLD**2 if self.view == "mouth" else self.latent_channels
        return 2 * self.latent_channels + MASK_CHANNELS + known

    @property
    def cross_attention_dim(self) -> int:
        """Width of the tokens that cross-attention reads."""
        return self.adapter_dim or self.audio_dim

    @model_validator(mode="before")
    @classmethod
    def _read_older_names(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        values = dict(values)
        # A checkpoint before version 0.2.
        values.setdefault("reference_residual", False)
        values.setdefault("warp_widths", ())
        if "motion_place" in values:
            modules = values.pop("motion_place")
            values["motion_modules"] = "all" if modules == "everywhere" else modules
        if "cross_attention_dim" in values:  # of a checkpoint before version 0.1
            width = values.pop("cross_attention_dim")
            values["adapter_dim"] = values.get("adapter_dim") or 0
            if not values["adapter_dim"]:
                values["audio_dim"] = width
            elif values["adapter_dim"] != width:
                raise ValueError(
                    f"adapter_dim {values['adapter_dim']} must equal cross_attention_dim {width}"
                )
            values["latent_channels"] = values.pop("out_channels", 4)
            del values["in_channels"]  # follows from the latents and the view
            values["motion_max_frames"] = values.pop("motion_max_seq_length", 24)
            values.setdefault("norm_over", "window")
            values.setdefault("view", "face")
        return values

    @model_validator(mode="after")
    def _sizes_fit_together(self) -> UNetConfig:
        if len(self.attention_levels) != len(self.block_out_channels):
            raise ValueError(
                f"attention_levels {self.attention_levels} and block_out_channels {self.block_out_channels}"
                " must have one entry per level"
            )
        for channels in self.block_out_channels:
            for name, divisor in (("groups", self.norm_num_groups), ("heads", self.attention_head_dim)):
                if channels % divisor:
                    raise ValueError(f"{channels} channels cannot be split into {divisor} {name}")
        if self.adapter_dim and self.motion:
            raise ValueError("adapter_dim needs motion = false")
        if self.warp_widths and not (self.adapter_dim and self.view == "mouth"):
            raise ValueError('warp_widths needs view = "mouth" and an adapter_dim')
        return self


class VAEConfig(Table):
    """Sizes of the autoencoder and the scale of its latents. The defaults are those of `sd-vae-ft-mse`.

    num_blocks        ResNet layers per level
    scaling_factor    scaled latents are latents times this
    patch             side in pixels of the squares that are folded into channels in front, which saves time
    middle_attention  whether the positions of the smallest level attend to each other
    """

    block_out_channels: Widths = (128, 256, 512, 512)
    num_blocks: Count = 2
    latent_channels: Count = 4
    scaling_factor: float = 0.18215  # Stable Diffusion's, which the reference forces
    patch: Count = 1
    norm_num_groups: Count = 32
    middle_attention: bool = True

    @model_validator(mode="before")
    @classmethod
    def _read_older_names(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("shift") == 0:  # of a checkpoint before version 0.1
            return {name: value for name, value in values.items() if name != "shift"}
        return values


class TinyAutoencoderConfig(Table):
    """Sizes of the compact model's autoencoder; levels go from the finest, half the picture's side, down.

    encoder_channels, decoder_channels  channels at a half, a quarter and an eighth of the side
    encoder_blocks, decoder_blocks      residual blocks at each of these levels
    """

    latent_channels: Count = 32
    encoder_channels: Widths = (64, 96, 96)
    encoder_blocks: Blocks = (1, 2, 2)
    decoder_channels: Widths = (64, 96, 96)
    decoder_blocks: Blocks = (2, 2, 2)


class WhisperDims(Table):
    """Dimensions of a Whisper encoder, under the names of OpenAI's checkpoints."""

    n_mels: int
    n_audio_ctx: int
    n_audio_state: int
    n_audio_head: int
    n_audio_layer: int


class TowerConfig(Table):
    """One of the two towers of a SyncNet, an entry per block.

    channels   width of each block; the last is the length of the embedding
    factors    by how much each block shrinks (rows, columns), or both alike
    attention  whether attention between the positions follows; empty means nowhere
    """

    channels: Widths
    factors: tuple[Factor, ...] = Field(strict=False, min_length=1)
    attention: tuple[bool, ...] = Field(strict=False)

    @property
    def attends(self) -> tuple[bool, ...]:
        """Whether attention follows, for each block."""
        return self.attention or (False,) * len(self.channels)

    @model_validator(mode="before")
    @classmethod
    def _read_older_names(cls, values: Any) -> Any:
        if isinstance(values, dict):
            return {name: value for name, value in values.items() if name != "in_channels"}
        return values

    @model_validator(mode="after")
    def _one_entry_per_block(self) -> TowerConfig:
        if not len(self.channels) == len(self.factors) == len(self.attends):
            raise ValueError("channels, factors and attention must have one entry per block")
        for width, attends in zip(self.channels, self.attends, strict=True):
            if attends and width % ATTENTION_HEADS:
                raise ValueError(f"{width} channels cannot be split into {ATTENTION_HEADS} heads")
        return self


class SyncNetConfig(Table):
    """Sizes of a SyncNet that sees all frames of a window in one picture, as the paper's.

    kind           "stable": ResNet blocks and GroupNorm; "wav2lip": Wav2Lip's network, with BatchNorm
    frames         length of the window, at 25 fps
    resolution     side in pixels of the aligned crop that the frames come from
    space          "pixel": RGB in -1..1; "latent": scaled latents of the VAE it is trained with
    latent_channels  of those latents; training takes it from the VAE
    is_lower_half  whether only the lower half of each frame is seen
    norm_groups    groups of every GroupNorm
    """

    kind: Literal["stable", "wav2lip"]
    frames: Annotated[int, Field(ge=2, le=250)]
    resolution: Annotated[int, Field(ge=16, le=1024, multiple_of=8)]
    space: Literal["pixel", "latent"]
    is_lower_half: bool
    norm_groups: Count
    dropout: Dropout
    visual: TowerConfig
    audio: TowerConfig
    latent_channels: Count = 4

    @property
    def frame_channels(self) -> int:
        return 3 if self.space == "pixel" else self.latent_channels

    @property
    def visual_channels(self) -> int:
        """Channels of the picture that holds all frames of a window."""
        return self.frames * self.frame_channels

    @property
    def mel_steps(self) -> int:
        """Mel columns of one window of frames: 3.2 a frame, rounded up."""
        return mel_columns(self.frames)

    @model_validator(mode="after")
    def _towers_fit_together(self) -> SyncNetConfig:
        if self.kind == "wav2lip":
            for name, blocks in WAV2LIP_BLOCKS.items():
                if len(getattr(self, name).channels) != blocks:
                    raise ValueError(f"the {name} tower of kind 'wav2lip' has {blocks} blocks")
            return self
        if self.visual.channels[-1] != self.audio.channels[-1]:
            raise ValueError(
                f"the towers end with {self.visual.channels[-1]} and {self.audio.channels[-1]} channels"
            )
        for width in sorted({*self.visual.channels, *self.audio.channels}):
            if width % self.norm_groups:
                raise ValueError(f"{width} channels cannot be split into {self.norm_groups} groups")
        return self


class FramewiseConfig(Table):
    """Sizes of the SyncNet that sees each frame by itself and then a window over time, as the bundled one.

    frames         length of the window, at 25 fps
    region_unit    top, bottom, left, right of what is seen, as shares of the aligned crop
    rows, columns  size of that region in pixels, as the network takes it
    channels       width of each block that halves the picture
    speech_width   channels of the audio branch before its last convolution
    width          channels of the layers over time; each frame enters them with half as many
    dimension      length of the embedding
    whisper_dim, whisper_states  width of a Whisper state and how many layers of the encoder are taken
    """

    frames: Annotated[int, Field(ge=2 * FRAMEWISE_CONTEXT + 2, le=250)]
    region_unit: tuple[float, float, float, float] = Field(strict=False)
    rows: Count
    columns: Count
    channels: Widths
    speech_width: Count
    width: Annotated[int, Field(ge=2, multiple_of=2)]
    dimension: Count
    dropout: Dropout
    whisper_dim: Count
    whisper_states: Count

    @field_validator("region_unit")
    @classmethod
    def _is_inside_the_crop(
        cls, region: tuple[float, float, float, float]
    ) -> tuple[float, float, float, float]:
        top, bottom, left, right = region
        if not (0 <= top < bottom <= 1 and 0 <= left < right <= 1):
            raise ValueError(f"region_unit {region} is not inside the crop")
        return region


class Wav2LipConfig(Table):
    """Sizes of Wav2Lip's generator.

    resolution      side of the crop in pixels: 96 is 3 halved five times
    first_channels  width at full size; it doubles with each halving, up to most_channels
    """

    resolution: Annotated[int, Field(ge=24, le=512)]
    first_channels: Count
    most_channels: Count

    @property
    def halvings(self) -> int:
        return (self.resolution // SMALLEST_SIDE_PX).bit_length() - 1

    @property
    def channels(self) -> tuple[int, ...]:
        """Width of each level, from full size to the smallest.

        >>> Wav2LipConfig(resolution=96, first_channels=16, most_channels=512).channels
        (16, 32, 64, 128, 256, 512)
        """
        levels = range(self.halvings + 1)
        return tuple(min(self.first_channels << level, self.most_channels) for level in levels)

    @field_validator("resolution")
    @classmethod
    def _halves_evenly(cls, resolution: int) -> int:
        halvings = (resolution // SMALLEST_SIDE_PX).bit_length() - 1
        if resolution % (1 << halvings):
            raise ValueError(
                f"resolution {resolution} cannot be halved evenly {halvings} times; try 96, 192 or 256"
            )
        return resolution


class VideoEncoderConfig(Table):
    """Sizes of VideoMAE-v2. The defaults are those of ViT-g, with the 174 classes it was fine-tuned on.

    picture  side in pixels that frames are resized to
    patch    side in pixels of a token
    tubelet  frames of a token
    """

    width: Count = 1408
    depth: Count = 40
    heads: Count = 16
    hidden: Count = 6144
    classes: Annotated[int, Field(ge=0)] = 174
    picture: Count = 224
    patch: Count = 14
    frames: Count = 16
    tubelet: Count = 2

    @model_validator(mode="after")
    def _parts_are_whole(self) -> VideoEncoderConfig:
        for whole, part in (
            (self.width, self.heads),
            (self.picture, self.patch),
            (self.frames, self.tubelet),
        ):
            if whole % part:
                raise ValueError(f"{whole} is not a multiple of {part}")
        return self
