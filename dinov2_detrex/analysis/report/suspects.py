"""Which labels are probably wrong? Confident detections that the truth contradicts, the most confident first.

A "class" suspect overlaps an object of another class well; a "missing" one has a box where the truth has nothing; a
"box" one lies at an object of its class whose box differs. Objects that another detection has found are not suspected.
"""

from dataclasses import dataclass

import numpy as np

from dinov2_detrex.analysis.report.error_kinds import Errors
from dinov2_detrex.analysis.report.judged import Judged

SUSPECTS = {"class": "class", "background": "missing", "box": "box"}  # kind of error: what is suspected
CONFIDENT = 0.5


@dataclass(frozen=True)
class Suspect:
    """One probable label error.

    Attributes:
        what: "class", "missing" or "box".
        detection: index of the detection.
        object: index of the object that is contradicted; -1 for "missing".
    """

    what: str
    detection: int
    object: int


def find_suspects(judged: Judged, errors: Errors, thresholds: np.ndarray, count: int = 100) -> list[Suspect]:
    """The `count` most confident, of detections with a score of at least 0.5 and their class's threshold, (C,)."""
    scores = judged.detections.score
    kept = (scores >= np.maximum(thresholds, CONFIDENT)[judged.detections.kind]) & np.isin(errors.kind, list(SUSPECTS))
    found = np.zeros(len(judged.objects) + 1, dtype=bool)  # the last stands for none
    found[judged.match[judged.found & (scores >= thresholds[judged.detections.kind])]] = True
    kept &= ~found[errors.target]
    rows = np.flatnonzero(kept)
    rows = rows[np.argsort(-scores[rows], kind="stable")][:count]
    return [Suspect(SUSPECTS[str(errors.kind[row])], int(row), int(errors.target[row])) for row in rows]
