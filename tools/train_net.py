#!/usr/bin/env python
"""Train or evaluate a detector: the command `dinov2-detrex train`, from a checkout."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # for a checkout that is not installed

from dinov2_detrex.cli import run_command  # noqa: E402

if __name__ == "__main__":
    sys.exit(run_command("train"))
