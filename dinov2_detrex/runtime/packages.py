"""What is a model package on disk, and what do its weights and facts say? A folder that can be handed on.

    model.safetensors   the weights, under the names of the model's state dict
    config.yaml         the config, as data (`config/packaged.py` reads it)
    detector.json       the facts: classes, thresholds, preprocessing, metrics, versions, licence
    README.md           the card, with the front matter of the Hugging Face Hub
    examples/           pictures to try it on, if any were given

`inference/packaging.py` writes one. Nothing in it is code, and nothing of it is executed when it is read.
"""

import json
import os
from pathlib import Path
from typing import Any

from dinov2_detrex.runtime import files
from dinov2_detrex.runtime.errors import UserError

WEIGHTS, CONFIG, FACTS, CARD, EXAMPLES = "model.safetensors", "config.yaml", "detector.json", "README.md", "examples"
REPORT = "report"  # the folder of a report in that of its run
THRESHOLDS_FILE = "thresholds.json"  # in it: "default" and "by_class" as below, and "weights": best, final, or a file
FORMAT = 1  # of the facts; a later version of this project that changes their meaning counts on


def is_package(folder: str | os.PathLike) -> bool:
    """True for a folder with the facts of a package."""
    return (Path(folder) / FACTS).is_file()


def read_facts(folder: str | os.PathLike) -> dict[str, Any]:
    """The content of a package's detector.json.

    Returns:
        "classes": [{"id": category id of the training data, "name": text}, ...] by the model's index, and "thresholds":
        {"default": score, "by_class": {name: score}}; what else it says is for people.

    Raises:
        UserError: it is missing, damaged, of a later format, or its classes are none.
    """
    path = Path(folder) / FACTS
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} is no model package: {FACTS} cannot be read ({error})") from error
    if not isinstance(facts, dict) or not isinstance(facts.get("format"), int):
        raise UserError(f"{path} is not of a model package: it says no format")
    if facts["format"] > FORMAT:
        raise UserError(f"{path} has format {facts['format']}, this version reads {FORMAT}; upgrade dinov2_detrex")
    classes = facts.get("classes")
    if not isinstance(classes, list) or not all(map(_is_class, classes)):
        raise UserError(f"{path} is damaged: its classes are not a list of an id and a name each")
    return facts


def _is_class(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("id"), int) and isinstance(entry.get("name"), str)


def weights_path(path: str | os.PathLike) -> Path:
    """The weights of a package; the path itself where it is no folder.

    Raises:
        UserError: a folder that is no package.
    """
    path = Path(path)
    if not path.is_dir():
        return path
    if not is_package(path):
        raise UserError(f"{path} is a folder, but no model package (it has no {FACTS}); give a checkpoint file in it")
    return path / WEIGHTS


def read_checkpoint(path: str | os.PathLike, memory_map: bool = False) -> dict[str, Any]:
    """`files.read_checkpoint`, also of a package (the folder, or its weights), whose class names come as "metadata".

    Raises:
        UserError: see `files.read_checkpoint` and `read_facts`.
    """
    path = weights_path(path)
    content = files.read_checkpoint(path, memory_map)
    if path.name == WEIGHTS and is_package(path.parent):
        content = content | {"metadata": metadata_of(read_facts(path.parent))}
    return content


def metadata_of(facts: dict[str, Any]) -> dict[str, Any]:
    """Class names and ids of a package's facts, as a checkpoint holds them."""
    ids = [entry["id"] for entry in facts["classes"]]
    return {
        "thing_classes": [entry["name"] for entry in facts["classes"]],
        "thing_dataset_id_to_contiguous_id": {category: index for index, category in enumerate(ids)},
    }
