"""The rates of the method, and which columns of mel and Whisper states belong to frames."""

from __future__ import annotations

VIDEO_FPS = 25  # the paper, section 4: all networks see video at 25 frames a second
AUDIO_HZ = 16_000  # and speech at 16 kHz
MEL_COLUMNS_PER_S = 80
WHISPER_STATES_PER_S = 50  # one state every 20 ms
STATES_PER_FRAME = WHISPER_STATES_PER_S // VIDEO_FPS
SAMPLES_PER_FRAME = AUDIO_HZ // VIDEO_FPS


def mel_columns(frames: int) -> int:
    """The columns of mel that cover `frames` frames, the last one begun or whole.

    >>> mel_columns(5), mel_columns(16)
    (16, 52)
    """
    # Rounded up, as the official code: 16 frames last 51.2 columns.
    return -(-frames * MEL_COLUMNS_PER_S // VIDEO_FPS)


def first_mel_column(frame: int) -> int:
    """The column of mel that begins with, or just before, frame `frame`.

    >>> first_mel_column(5)
    16
    """
    return frame * MEL_COLUMNS_PER_S // VIDEO_FPS
