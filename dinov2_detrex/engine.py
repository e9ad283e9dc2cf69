"""Which implementation serves `detectron2` and `detrex`: the installed package, or the slice in `fallback/`.

The fallback folder goes to the END of `sys.path`, so an installed package always wins, each for itself, and nothing
is patched.
"""

import importlib.util
import sys
from pathlib import Path

ENGINE_PACKAGES = ("detectron2", "detrex")
FALLBACK_DIR = Path(__file__).parent / "fallback"


def enable_fallback() -> None:
    """Make the fallback importable behind everything that is installed; calling it again changes nothing."""
    if str(FALLBACK_DIR) not in sys.path:
        sys.path.append(str(FALLBACK_DIR))


def is_fallback(package: str) -> bool:
    """True where `package` ("detectron2" or "detrex") is served by the fallback, False where it is installed."""
    spec = importlib.util.find_spec(package)
    return spec is not None and spec.origin is not None and Path(spec.origin).is_relative_to(FALLBACK_DIR)
