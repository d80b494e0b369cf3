"""Make `examples/speech.wav`: one sentence in a synthetic voice.

    python examples/make/speech.py

Needs espeak-ng (`apt install espeak-ng`, `brew install espeak-ng`); the package itself does not. The sentence
has long open vowels, lips that close (p, b, m) and a pause, so that a viewer can judge the mouth.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

SENTENCE = "My papa may buy a map. Maybe we all go home by boat."
VOICE = "en-us"
SPEED_WORDS_PER_MINUTE = 150
GAP_10MS = 2  # between words


def main() -> None:
    """Write the wav next to this folder."""
    program = shutil.which("espeak-ng")
    if program is None:
        sys.exit("error: espeak-ng is not installed\nhint:  apt install espeak-ng, or brew install espeak-ng")
    target = Path(__file__).resolve().parent.parent / "speech.wav"
    arguments = [
        "-v",
        VOICE,
        "-s",
        str(SPEED_WORDS_PER_MINUTE),
        "-g",
        str(GAP_10MS),
        "-w",
        str(target),
        SENTENCE,
    ]
    subprocess.run([program, *arguments], check=True)
    print(target)


if __name__ == "__main__":
    main()
