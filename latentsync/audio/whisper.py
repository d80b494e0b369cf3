"""Encodes speech: the log-mel of a whole file and the states of a Whisper encoder at 50 states a second."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from latentsync.axes import expect_axes
from latentsync.compat import make_torchvision_importable
from latentsync.rates import AUDIO_HZ
from latentsync.recipe.networks import WhisperDims

RATE_HZ = AUDIO_HZ  # its name before latentsync.rates
MELS = 80
FFT_SAMPLES = 400
HOP_SAMPLES = 160
CHUNK_MELS = 3000  # what the encoder takes at once: 30 s
CHUNK_STATES = CHUNK_MELS // 2
STATES_BETWEEN_CHUNKS = 1250  # seams lie 2.5 s from the edges, whose effect fades within 0.5 s (measured)
FADE_STATES = 10  # on either side of a seam, because the table of positions jumps there
KEPT_CHUNKS = 2

ChunkMode = Literal["overlap", "exact"]


class WhisperEncoder(nn.Module):
    """The encoder half of Whisper, which also gives the states between its layers.

    The transformer is Hugging Face's; only the gathering of states is ours, because its last hidden state is
    normalised and the released models were trained on the one before that.
    """

    def __init__(self, dims: WhisperDims) -> None:
        super().__init__()
        make_torchvision_importable()
        from transformers import WhisperConfig
        from transformers.models.whisper.modeling_whisper import WhisperEncoder as Transformer

        self.dims = dims
        self.transformer = Transformer(
            WhisperConfig(
                num_mel_bins=dims.n_mels,
                max_source_positions=dims.n_audio_ctx,
                d_model=dims.n_audio_state,
                encoder_attention_heads=dims.n_audio_head,
                encoder_layers=dims.n_audio_layer,
                encoder_ffn_dim=4 * dims.n_audio_state,
            )
        )

    @torch.no_grad()
    def states(self, log_mel: Tensor) -> Tensor:
        """The input of the first layer and the output of every layer, before the final normalisation.

        Args:
            log_mel: (b 80 3000), on any device.

        Returns:
            (b 1500 n d) with n = layers + 1, on the encoder's device and in its number format.

        Source: compatible with the official `whisper` fork, which keeps the same five states of `tiny`.
        """
        expect_axes(log_mel, "b d t", d=self.dims.n_mels, t=2 * self.dims.n_audio_ctx)
        states: list[Tensor] = []

        def keep_input(_layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            states.append(inputs[0])

        def keep_output(_layer: nn.Module, _inputs: object, output: Tensor | tuple[Tensor, ...]) -> None:
            states.append(output[0] if isinstance(output, tuple) else output)  # a tuple before transformers 5

        layers = self.transformer.layers
        hooks = [layers[0].register_forward_pre_hook(keep_input)]
        hooks += [layer.register_forward_hook(keep_output) for layer in layers]
        try:
            self.transformer(log_mel.to(self.transformer.conv1.weight))
        finally:
            for hook in hooks:
                hook.remove()
        return torch.stack(states, dim=2)  # b t n d


@lru_cache(maxsize=1)
def _mel_filters() -> Tensor:
    make_torchvision_importable()
    from transformers.audio_utils import mel_filter_bank

    bins = FFT_SAMPLES // 2 + 1
    filters = mel_filter_bank(bins, MELS, 0.0, AUDIO_HZ / 2, AUDIO_HZ, norm="slaney", mel_scale="slaney")
    return torch.from_numpy(filters.T.astype(np.float32))  # (mels, bins)


def log_mel(samples: NDArray[np.float32]) -> Tensor:
    """The log-mel spectrogram of a whole file, as Whisper's encoder wants it.

    The floor lies 80 dB under the loudest point of the whole file, so the file must be given in one piece.
    Memory stays near that of the result (115 MB an hour).

    Args:
        samples: (n,) 16 kHz mono speech in -1..1. Less than 25 ms is extended with silence.

    Returns:
        (80 t) float32, 100 columns per second.

    Source: OpenAI Whisper's front end: periodic Hann 400, hop 160, centred, last column off, Slaney mels.
    """
    expect_axes(samples, "t")
    signal = torch.from_numpy(np.ascontiguousarray(samples, dtype=np.float32))
    if len(signal) < FFT_SAMPLES:
        signal = nn.functional.pad(signal, (0, FFT_SAMPLES - len(signal)))
    columns = len(signal) // HOP_SAMPLES
    logarithm = torch.empty(MELS, columns)
    window = torch.hann_window(FFT_SAMPLES)
    half = FFT_SAMPLES // 2
    for first in range(0, columns, CHUNK_MELS):
        last = min(first + CHUNK_MELS, columns)
        start, stop = first * HOP_SAMPLES - half, (last - 1) * HOP_SAMPLES + half
        piece = signal[max(start, 0) : stop]
        mirrored = (max(-start, 0), max(stop - len(signal), 0))
        piece = nn.functional.pad(piece[None], mirrored, mode="reflect")[0]
        spectrum = torch.stft(
            piece, FFT_SAMPLES, HOP_SAMPLES, window=window, center=False, return_complex=True
        )
        logarithm[:, first:last] = (_mel_filters() @ spectrum.abs().square()).clamp(min=1e-10).log10()
    # Whisper's own scale: a floor of 8 powers of ten, 80 dB, and about -1..1 for speech.
    return logarithm.clamp_(min=float(logarithm.max()) - 8.0).add_(4.0).div_(4.0)


class SpeechStates:
    """Whisper states of one speech file, computed chunk by chunk where they are asked for.

    Two chunks of 30 s are kept, so long speech takes little more memory than its log-mel, 2 MB a minute.
    Going through it in order runs each chunk once. In mode "overlap" chunks begin every 25 s and pass into
    each other over 0.4 s, away from their edges; the last one ends with the speech. In mode "exact" chunks
    lie end to end and the last is filled up with zeros, as in the reference. Up to 30 s the modes are equal.
    """

    def __init__(
        self, encoder: WhisperEncoder, samples: NDArray[np.float32], *, mode: ChunkMode = "overlap"
    ) -> None:
        self._encoder = encoder
        self._log_mel = log_mel(samples)
        self._length = self._log_mel.shape[1] // 2
        if mode == "exact" or self._length <= CHUNK_STATES:
            self._starts = list(range(0, self._length, CHUNK_STATES))
        else:
            end = self._length - CHUNK_STATES
            self._starts = [*range(0, end, STATES_BETWEEN_CHUNKS), end]
        self._fade_states = FADE_STATES if mode == "overlap" else 0
        self._seams = [(first + CHUNK_STATES + second) // 2 for first, second in pairwise(self._starts)]
        self._kept: dict[int, Tensor] = {}

    def __len__(self) -> int:
        """Number of states, 50 a second."""
        return self._length

    def take(self, indices: Tensor) -> Tensor:
        """The states (k n d), float32 on the CPU, of the indices (k,), each in 0..len-1."""
        expect_axes(indices, "n")
        taken: Tensor | None = None
        for chunk, start in enumerate(self._starts):
            share = self._share(chunk, indices)
            used = share.nonzero().flatten()
            if len(used) == 0:
                continue
            states = self._chunk(chunk)
            if taken is None:
                taken = torch.zeros(len(indices), *states.shape[1:])
            taken.index_add_(0, used, states[indices[used] - start] * share[used, None, None])
        if taken is None:
            raise ValueError("no states were asked for")
        return taken

    def _share(self, chunk: int, indices: Tensor) -> Tensor:
        """How much of each state this chunk contributes, 0..1; the shares of all chunks add up to 1."""
        share = torch.ones(len(indices))
        if chunk > 0:
            share = share * self._rise(self._seams[chunk - 1], indices)
        if chunk < len(self._seams):
            share = share * (1 - self._rise(self._seams[chunk], indices))
        return share

    def _rise(self, seam: int, indices: Tensor) -> Tensor:
        if self._fade_states == 0:
            return (indices >= seam).float()
        return ((indices - seam + self._fade_states) / (2 * self._fade_states)).clamp(0, 1)

    def _chunk(self, chunk: int) -> Tensor:
        if chunk not in self._kept:
            first = 2 * self._starts[chunk]
            piece = self._log_mel[:, first : first + CHUNK_MELS]
            piece = nn.functional.pad(piece, (0, CHUNK_MELS - piece.shape[1]))
            # The oldest goes: frames come in order, and a state is mixed from two chunks at most.
            if len(self._kept) == KEPT_CHUNKS:
                del self._kept[next(iter(self._kept))]
            self._kept[chunk] = self._encoder.states(piece[None])[0].float().cpu()
        return self._kept[chunk]


def encode_speech(
    encoder: WhisperEncoder, samples: NDArray[np.float32], *, mode: ChunkMode = "overlap"
) -> Tensor:
    """Encode a whole speech file at once.

    The result takes 23 MB a minute with a tiny encoder: for long speech pass a `SpeechStates` on instead.

    Returns:
        (t n d) float32 on the CPU, 50 states a second.
    """
    speech = SpeechStates(encoder, samples, mode=mode)
    return torch.cat(
        [speech.take(indices) for indices in torch.split(torch.arange(len(speech)), CHUNK_STATES)]
    )
