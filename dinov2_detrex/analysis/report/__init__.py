"""How good is a run's detector, where does it fail, and what did it cost? A page of curves, tables and pictures.

from dinov2_detrex.analysis.report import read_inputs, write_report

write_report(read_inputs(Path("output/mine")), Path("output/mine/report"))
"""

from dinov2_detrex.analysis.report.inputs import read_inputs
from dinov2_detrex.analysis.report.writing import write_report

__all__ = ["read_inputs", "write_report"]
