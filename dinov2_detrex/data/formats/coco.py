"""COCO's instances JSON, beside a folder of images (Lin et al. 2014; cocodataset.org, "Data format")."""

import functools
import json
import os

from dinov2_detrex.data.errors import DatasetError
from dinov2_detrex.data.schema import with_lists
from dinov2_detrex.data.source import DataFormat, DataSource, Document, file_version
from dinov2_detrex.runtime.garbage import collection_paused


def detect(path: str) -> bool:
    """A file that is named *.json, or that begins as a JSON object does."""
    if not os.path.isfile(path):
        return False
    if path.lower().endswith(".json"):
        return True
    with open(path, "rb") as file:
        return file.read(64).lstrip().startswith(b"{")


def read(path: str, image_root: str | None) -> DataSource:
    """The source of an instances JSON; its images lie in `image_root`, the JSON does not say where."""
    load = functools.partial(read_document, path)
    return DataSource(path, image_root, file_version(path), load, json_file=path)


def read_document(path: str) -> Document:
    """The JSON as a dict with at least the lists "images" and "categories"; its "annotations", if any, are one, too.

    Raises:
        DatasetError: it is no JSON, or not COCO's format.
    """
    with open(path, encoding="utf-8") as file, collection_paused():
        try:
            document = json.load(file)
        except (ValueError, RecursionError) as error:
            raise DatasetError(f"{path} is not valid JSON: {error}") from error
    return with_lists(document, path)


FORMAT = DataFormat("COCO", detect, read)
