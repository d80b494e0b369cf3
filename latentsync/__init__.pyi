from typing import TYPE_CHECKING

if TYPE_CHECKING:  # mypy then reads what this imports before it, not in a circle with it
    from latentsync.api import *
    from latentsync.api import __all__ as __all__

__version__: str
