"""From the network's image size to the size that the caller asked for: `detector_postprocess`."""

from detectron2.structures import Instances


def detector_postprocess(
    results: Instances, output_height: int, output_width: int, mask_threshold: float = 0.5
) -> Instances:
    """Scale boxes to the output size, clip them, drop the empty ones.

    Args:
        results: predictions in pixels of `results.image_size`, with `pred_boxes` or else `proposal_boxes`, which are
            scaled in place.
        output_height, output_width: size of the image that the user knows.
        mask_threshold: accepted for callers; masks need the real detectron2.

    Returns:
        new Instances of image_size (output_height, output_width); all fields are filtered alike.

    Raises:
        AssertionError: no boxes field, or NaN or infinite boxes.
    """
    height, width = results.image_size
    scaled = Instances((int(output_height), int(output_width)), **results.get_fields())
    name = "pred_boxes" if scaled.has("pred_boxes") else "proposal_boxes"
    assert scaled.has(name), f"predictions need pred_boxes or proposal_boxes, got {list(scaled.get_fields())}"
    boxes = scaled.get(name)
    boxes.scale(output_width / width, output_height / height)
    boxes.clip(scaled.image_size)
    return scaled[boxes.nonempty()]
