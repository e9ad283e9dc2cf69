"""What does a report leave on the disk? report.html, which needs no other file, and its parts as PNG and JSON."""

from pathlib import Path
from typing import Any

from dinov2_detrex.analysis.report.findings import Findings, find, plain
from dinov2_detrex.analysis.report.inputs import Inputs
from dinov2_detrex.analysis.report.page import page
from dinov2_detrex.analysis.report.pictures import write_pictures
from dinov2_detrex.runtime.files import write_json, write_text
from dinov2_detrex.runtime.packages import THRESHOLDS_FILE

PAGE, NUMBERS = "report.html", "report.json"


def write_report(inputs: Inputs, folder: Path) -> Path:
    """Write the report on a run.

    Args:
        inputs: see `read_inputs`.
        folder: is made if need be; what an earlier report left there is replaced.

    Returns:
        the page.

    Raises:
        UserError: the detections are not of the data set's images.
    """
    findings = find(inputs)
    folder.mkdir(parents=True, exist_ok=True)
    write_pictures([*findings.worst_pictures, *findings.suspect_pictures], folder)
    write_json(folder / NUMBERS, plain(findings))
    if findings.detected is not None:
        write_json(folder / THRESHOLDS_FILE, _thresholds(findings, findings.detected.thresholds), indent=1)
    else:
        (folder / THRESHOLDS_FILE).unlink(missing_ok=True)
    write_text(folder / PAGE, page(findings))
    return folder / PAGE


def _thresholds(findings: Findings, thresholds: dict[str, Any]) -> dict[str, Any]:
    """With whose they are, for what packages those weights."""
    return thresholds | {"weights": findings.inputs.weights}
