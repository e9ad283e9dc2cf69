"""The helper of these tests, and the modules that write the reference, can be imported."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path += [str(HERE), str(HERE.parents[1] / "docs" / "extensions")]
