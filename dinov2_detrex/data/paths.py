"""Where data sets lie: under $DETECTRON2_DATASETS, as detectron2 users have them."""

import os
from pathlib import Path


def datasets_root() -> Path:
    """$DETECTRON2_DATASETS with `~` expanded, or ./datasets where it is not set; read at every call."""
    return Path(os.environ.get("DETECTRON2_DATASETS") or "datasets").expanduser()
