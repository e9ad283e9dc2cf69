#!/usr/bin/env python
"""Train or evaluate a detector: `python tools/train_net.py --help`, or under torchrun."""

import importlib.util
import sys
from pathlib import Path

if importlib.util.find_spec("dinov2_detrex") is None:  # a checkout that is not installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dinov2_detrex.training.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
