"""For `make docs`: links that leave docs/ lead to the repository."""

from __future__ import annotations

import re
from typing import Any

REPOSITORY = "https://github.com/latentsync/latentsync/blob/main/"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by mkdocs for each page."""
    return re.sub(r"\]\(\.\./", f"]({REPOSITORY}", markdown)
