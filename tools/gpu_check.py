#!/usr/bin/env python
"""Does all of this work on a GPU, and how fast? The command `dinov2-detrex benchmark gpu`, from a checkout."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # for a checkout that is not installed

from dinov2_detrex.cli import run_command  # noqa: E402

if __name__ == "__main__":
    sys.exit(run_command("benchmark gpu"))
