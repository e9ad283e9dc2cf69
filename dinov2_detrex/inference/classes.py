"""Which classes does a detector know, under which names and category ids? The checkpoint says."""

from dataclasses import dataclass

from dinov2_detrex.runtime.errors import UserError


@dataclass(frozen=True)
class Classes:
    """Names and the data set's own category ids, by contiguous index."""

    names: list[str]
    category_ids: list[int]


def classes_of_checkpoint(content: dict, num_classes: int | None) -> Classes:
    """The classes that a checkpoint was trained on; numbers from 0 where it does not say, as detrex's do not.

    Args:
        content: of the file.
        num_classes: of the model; None where its config does not say.

    Raises:
        UserError: it holds another number of names.
    """
    metadata = content.get("metadata") or {}
    names = list(metadata.get("thing_classes") or map(str, range(num_classes or 0)))
    if num_classes is not None and len(names) != num_classes:
        raise UserError(f"the checkpoint has the names of {len(names)} classes, the config's model has {num_classes}")
    index_of = metadata.get("thing_dataset_id_to_contiguous_id") or {index: index for index in range(len(names))}
    return Classes(names, sorted(index_of, key=lambda category: index_of[category]))
