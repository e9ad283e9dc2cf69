"""A data set in several shares, drawn by a seed, each with its part of every class.

Sechidis et al. 2011, "On the stratification of multi-label data", section 3.2: images are given away class by class,
the rarest first, each to the share that lacks most of that class. Images that show the same thing, such as frames of
one video, are not known as such; whoever has them should split by video.
"""

import random
from collections import Counter
from collections.abc import Mapping, Sequence

from tabulate import tabulate

from dinov2_detrex.data.errors import DatasetError

Document = dict  # in COCO's form


def split_images(document: Document, fractions: Sequence[float], seed: int) -> list[set]:
    """Ids of the images of each share.

    The shares depend on the images' names and classes and on the seed, not on ids or the order in the document. Their
    sizes are exact: fraction x images, rounded so that the sum is right.

    Args:
        document: in COCO's form.
        fractions: of the images, above 0, with the sum 1.
        seed: another one draws other shares.

    Raises:
        DatasetError: a share would be without images.
    """
    images = sorted(document["images"], key=lambda image: str(image["file_name"]))
    random.Random(seed).shuffle(images)
    free = _rounded([fraction * len(images) for fraction in fractions])
    if not all(free):
        shown = ", ".join(f"{fraction:g}" for fraction in fractions)
        raise DatasetError(f"{len(images)} images cannot be split by {shown}: a part would be empty")
    shown_by = _classes_by_image(document)
    wanted = _wanted(shown_by.values(), fractions)
    shares: list[set] = [set() for _ in fractions]
    for kind, ids in _rarest_first([(image["id"], shown_by[image["id"]]) for image in images]):
        for image_id in ids:
            best = max((i for i, room in enumerate(free) if room), key=lambda i: (wanted[i][kind], free[i]))
            shares[best].add(image_id)
            free[best] -= 1
            wanted[best].subtract(shown_by[image_id])
    return shares


def select(document: Document, image_ids: set) -> Document:
    """The document with those images and their annotations alone; all categories stay."""
    return document | {
        "images": [image for image in document["images"] if image["id"] in image_ids],
        "annotations": [a for a in document.get("annotations", []) if a.get("image_id") in image_ids],
    }


def describe_shares(documents: Mapping[str, Document]) -> str:
    """A table: for each share the number of images, and of objects of each class."""
    first = next(iter(documents.values()))
    rows = []
    for name, document in documents.items():
        counts = Counter(annotation["category_id"] for annotation in document["annotations"])
        by_class = [counts[entry["id"]] for entry in first["categories"]]
        rows.append([name, len(document["images"]), len(document["annotations"]), *by_class])
    names = [str(entry["name"]) for entry in first["categories"]]
    return tabulate(rows, headers=["part", "images", "objects", *names], tablefmt="simple")


def _rounded(sizes: list[float]) -> list[int]:
    """Whole numbers of the same sum: rounded down, and one more for those that lost most by that."""
    whole = [int(size + 1e-9) for size in sizes]
    by_loss = sorted(range(len(sizes)), key=lambda i: whole[i] - sizes[i])
    for i in by_loss[: round(sum(sizes)) - sum(whole)]:
        whole[i] += 1
    return whole


def _classes_by_image(document: Document) -> dict:
    """{image id: the classes that it shows}; an image without objects shows the class None."""
    shown: dict = {image["id"]: set() for image in document["images"]}
    for annotation in document.get("annotations", []):
        if annotation.get("image_id") in shown:
            shown[annotation["image_id"]].add(annotation.get("category_id"))
    return {image_id: classes or {None} for image_id, classes in shown.items()}


def _wanted(classes_of_images, fractions: Sequence[float]) -> list[Counter]:
    """For each share the number of images that should show each class."""
    total = Counter(kind for classes in classes_of_images for kind in classes)
    return [Counter({kind: fraction * count for kind, count in total.items()}) for fraction in fractions]


def _rarest_first(images: list[tuple]):
    """(class, ids of the images left that show it), the class with the fewest images left first; each image once."""
    left = dict(images)
    while left:
        counts = Counter(kind for classes in left.values() for kind in classes)
        rarest = min(counts, key=lambda kind: (counts[kind], str(kind)))
        ids = [image_id for image_id, classes in left.items() if rarest in classes]
        yield rarest, ids
        for image_id in ids:
            del left[image_id]
