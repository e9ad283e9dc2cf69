"""Several data sets as one, where their classes agree."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from dinov2_detrex.data.errors import DatasetError

_SHOWN_CLASSES = 10


class Member(NamedTuple):
    """One of the data sets: its name for messages, its image folder, its document in COCO's form."""

    name: str
    image_root: str
    document: dict[str, Any]


def common_folder(folders: Sequence[str]) -> str:
    """The folder that all of them lie in, as an absolute path."""
    return os.path.commonpath([os.path.abspath(folder) for folder in folders])


def join_documents(members: Sequence[Member]) -> dict[str, Any]:
    """One document with the images and annotations of all, numbered anew, in the given order.

    The category ids are the first one's; the others' are translated by name. File names are relative to the
    `common_folder` of all image folders.

    Raises:
        DatasetError: two of them have other classes; the line shows names and ids.
    """
    first = members[0].document
    ids_by_name = {entry["name"]: entry["id"] for entry in first["categories"]}
    root = common_folder([member.image_root for member in members])
    images, annotations = [], []
    for member in members:
        _require_same_classes(members[0], member)
        names = {entry["id"]: entry["name"] for entry in member.document["categories"]}
        folder = os.path.relpath(os.path.abspath(member.image_root), root)
        new_ids = {}
        for image in member.document["images"]:
            new_ids[image["id"]] = len(images) + 1
            file_name = os.path.normpath(os.path.join(folder, image["file_name"]))
            images.append(image | {"id": len(images) + 1, "file_name": file_name})
        for annotation in member.document.get("annotations", []):
            annotations.append(_renumbered(annotation, len(annotations) + 1, new_ids, ids_by_name, names))
    return {"images": images, "annotations": annotations, "categories": first["categories"]}


def _renumbered(annotation: dict, number: int, image_ids: Mapping, ids_by_name: Mapping, names: Mapping) -> dict:
    """The annotation with its new ids; one of an image or a class that is not listed keeps none, as the check says."""
    category_id = annotation.get("category_id")
    return annotation | {
        "id": number,
        "image_id": image_ids.get(annotation.get("image_id")),
        "category_id": ids_by_name.get(names.get(category_id), category_id),
    }


def _require_same_classes(first: Member, other: Member) -> None:
    names = [Counter(str(entry["name"]) for entry in member.document["categories"]) for member in (first, other)]
    if names[0] != names[1] or max(names[0].values(), default=0) > 1:
        raise DatasetError(
            f"{first.name} and {other.name} cannot be joined, since their classes differ: the former has "
            f"{_shown(first)}, the latter {_shown(other)}; give both the same class names, each once"
        )


def _shown(member: Member) -> str:
    """The classes as `0 owl, 1 gnu`."""
    categories = sorted(member.document["categories"], key=lambda entry: str(entry["id"]))
    shown = ", ".join(f"{entry['id']} {entry['name']}" for entry in categories[:_SHOWN_CLASSES])
    more = len(categories) - _SHOWN_CLASSES
    return f"{shown or 'none'}{f' and {more} more' if more > 0 else ''}"
