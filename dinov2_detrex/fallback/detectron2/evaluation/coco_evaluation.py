"""Box average precision by COCO's rules: the evaluator is dinov2_detrex's own; predictions as COCO's rows."""

from detectron2.structures import BoxMode, Instances

from dinov2_detrex.engine import reexport

__getattr__ = reexport(__name__, "COCOEvaluator")


def instances_to_coco_json(instances: Instances, image_id: int | str) -> list[dict]:
    """Predictions of one image as {"image_id", "category_id", "bbox" XYWH, "score"}; class ids as they are."""
    if len(instances) == 0:
        return []
    boxes_xywh = BoxMode.convert(instances.pred_boxes.tensor, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS).tolist()
    classes, scores = instances.pred_classes.tolist(), instances.scores.tolist()
    return [
        {"image_id": image_id, "category_id": category, "bbox": bbox, "score": score}
        for category, bbox, score in zip(classes, boxes_xywh, scores)
    ]
