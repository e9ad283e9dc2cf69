"""Which measurements are there, and how are they reported? `python tools/benchmark.py WHAT`, kept in
benchmarks/RESULTS.md.

Each module answers one question with rows of a table. Rows of one run are compared, not times of two runs.
"""

from dinov2_detrex.benchmark import busy, deformable, losses, memory, step, windows

MEASUREMENTS = {
    "windows": windows.report,
    "memory": memory.report,
    "deformable": deformable.report,
    "losses": losses.report,
    "step": step.report,
    "busy": busy.report,
}

__all__ = ["MEASUREMENTS", "busy", "deformable", "losses", "memory", "step", "windows"]
