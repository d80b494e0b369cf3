"""Which matrix turns stored colours into RGB and back, so that reader and writer agree."""

from __future__ import annotations

_BT601 = 5
_MATRIX_OF_TAG = {1: 1, 4: 4, 5: _BT601, 6: _BT601, 7: 7, 9: 9, 10: 9}  # H.273 code point -> name of swscale


def matrix_of(colorspace: int) -> int:
    """The conversion matrix for a colour tag. Untagged video is taken for BT.601, here and in the writer."""
    return _MATRIX_OF_TAG.get(colorspace, _BT601)


def is_known_matrix(colorspace: int) -> bool:
    """Whether frames with this colour tag are converted by the matrix that it names."""
    return colorspace in _MATRIX_OF_TAG
