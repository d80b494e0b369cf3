"""Programs and made data beside the tests, which tests also import."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
