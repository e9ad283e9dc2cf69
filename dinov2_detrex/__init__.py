"""DINOv2 as a detectron2 backbone, and DINO detectors trained on it through LazyConfig files.

Importing this package makes `detectron2` and `detrex` importable: the installed ones where they exist, else the
small slice of their API under `fallback/` (`python -m dinov2_detrex.env` prints which). It also registers the
omegaconf resolvers that the recipes use (`dinov2_detrex.config`), and how YAML shows the sections of their options.
"""

import importlib

from dinov2_detrex.config import register_plain_yaml, register_resolvers
from dinov2_detrex.engine import enable_fallback

__version__ = "0.1.0"

_HOME = {
    "TimmBackbone": "dinov2_detrex.backbone",
    "SimpleFeaturePyramid": "dinov2_detrex.backbone",
    "DINO": "dinov2_detrex.detector",
    "get_config": "dinov2_detrex.config",
}
__all__ = sorted(_HOME)

enable_fallback()
register_resolvers()
register_plain_yaml()


def __getattr__(name: str):
    """Public names are imported at first use, so that `import dinov2_detrex` stays light."""
    if name not in _HOME:
        raise AttributeError(f"module 'dinov2_detrex' has no attribute {name!r}; it exports {', '.join(__all__)}")
    return getattr(importlib.import_module(_HOME[name]), name)
