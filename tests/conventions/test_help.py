"""`latentsync --help` answers at once: it loads nothing that is slow to load."""

from __future__ import annotations

import subprocess
import sys

HEAVY = (
    "torch",
    "torchvision",
    "diffusers",
    "transformers",
    "accelerate",
    "decord",
    "av",
    "cv2",
    "numpy",
    "scipy",
    "skimage",
    "pydantic",
    "pyarrow",
    "matplotlib",
    "ray",
    "rich.console",
)


def test_help_loads_no_heavy_module() -> None:
    program = (
        "import sys\n"
        "from latentsync_cli.app import main\n"
        "sys.argv = ['latentsync', '--help']\n"
        "try:\n    main()\n"
        "except SystemExit as stop:\n    assert not stop.code\n"
        f"print('LOADED', sorted(set({HEAVY!r}) & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "sync" in done.stdout
    assert done.stdout.rstrip().endswith("LOADED []")
