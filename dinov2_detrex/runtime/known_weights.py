"""Which published files of weights are known by name, and what do their publishers say of them?

The table is `known_weights.csv`, a row a file. A field that nobody publishes is empty in it; nothing is guessed.
"""

import csv
import os
from dataclasses import dataclass, fields
from pathlib import Path

from dinov2_detrex.runtime.errors import UserError, did_you_mean

SCHEME = "known://"  # begins the name of such a file where a path is expected
MORE_ROWS = "DINOV2_DETREX_KNOWN_WEIGHTS"  # in the environment: a table of one's own, e.g. of a mirror
TABLE = Path(__file__).with_suffix(".csv")
DETECTOR, BACKBONE = "detector", "backbone"


@dataclass(frozen=True)
class KnownFile:
    """A row of the table; "" and None for what is not published.

    Attributes:
        name: unique; the published file's, without its ending.
        kind: "detector", for `train.init_checkpoint`, or "backbone", for a ViT's `checkpoint_path`.
        backbone: what a detector stands on, or the architecture itself.
        pretrained_on: the data of the backbone, or the weights that it started from.
        classes: a registered data set whose classes a detector knows, in its order.
        ap: box AP on COCO val2017 as published, in percent.
        address: of the file; "" where the publisher sends it on request alone.
        bytes: its size.
        sha256: 64 hexadecimal digits, or their beginning.
        sha256_from: the page that says so; it is not always the publisher's.
        licence: of the repository that publishes the file.
        page: that describes it.
    """

    name: str
    kind: str
    backbone: str = ""
    pretrained_on: str = ""
    classes: str = ""
    ap: str = ""
    address: str = ""
    bytes: int | None = None
    sha256: str = ""
    sha256_from: str = ""
    licence: str = ""
    page: str = ""

    @property
    def file_name(self) -> str:
        """As published."""
        return self.address.rpartition("/")[2] or f"{self.name}.pth"


def known_files() -> dict[str, KnownFile]:
    """Name -> file, in the order of the table; a row of the user's own table wins over one of its name.

    Raises:
        UserError: the user's own table is missing or damaged.
    """
    own = os.environ.get(MORE_ROWS)
    return _read(TABLE) | (_read(Path(own)) if own else {})


def find_known(name: str) -> KnownFile:
    """The file of that name, with or without `known://` before it.

    Raises:
        UserError: there is none.
    """
    name, files = name.removeprefix(SCHEME), known_files()
    if name not in files:
        hint = did_you_mean(name, files) or "; `dinov2-detrex weights list` shows the known ones"
        raise UserError(f"{SCHEME}{name} is no known file of weights{hint}")
    return files[name]


def classes_of_known(path: str) -> str:
    """The data set whose classes `known://NAME` has; "" for any other path, and where none is published."""
    return find_known(path.partition("?")[0]).classes if path.startswith(SCHEME) else ""


def _read(table: Path) -> dict[str, KnownFile]:
    try:
        with open(table, encoding="utf-8", newline="") as file:
            rows = [_parsed(row) for row in csv.DictReader(file)]
    except (OSError, UnicodeDecodeError, ValueError, TypeError, KeyError) as error:
        columns = ",".join(field.name for field in fields(KnownFile))
        raise UserError(f"{table} is no table of known weights ({error}); its first line is {columns}") from error
    return {row.name: row for row in rows}


def _parsed(row: dict[str, str]) -> KnownFile:
    text = {name: value for name, value in row.items() if name != "bytes" and value}
    return KnownFile(**text, bytes=int(row["bytes"]) if row.get("bytes") else None)
