"""What do data and predictions look like side by side? A sheet of images with their boxes, and pictures as files."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from detectron2.structures import BoxMode, Instances
from PIL import Image, ImageDraw

from dinov2_detrex.data.image_reading import open_upright
from dinov2_detrex.runtime.errors import UsageError
from dinov2_detrex.runtime.files import atomic_write
from dinov2_detrex.visualization.drawing import draw_boxes, draw_objects, load_font

Prediction = Instances | Mapping[str, Instances]  # or a model output that holds them under "instances"
Predictions = Sequence[Mapping] | Sequence[Prediction] | Mapping[int, Prediction]  # see `contact_sheet`
Drawable = tuple[np.ndarray, np.ndarray, np.ndarray]  # boxes XYXY (N, 4), scores (N,), class indices (N,)

_MARGIN_PX = 6
_HEADING_PX = 20
_PAPER, _INK = (255, 255, 255), (30, 30, 30)


def tile(
    image: Image.Image, boxes_xyxy: np.ndarray, class_indices: Sequence[int], labels: Sequence[str], tile_px: int
) -> Image.Image:
    """The image with its boxes, scaled so that its long side is `tile_px`; labels keep their size."""
    scale = tile_px / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    boxes = np.asarray(boxes_xyxy, dtype=np.float64).reshape(-1, 4) * scale
    return draw_boxes(image.convert("RGB").resize(size), boxes, class_indices, labels)


def assemble(rows: Sequence[Sequence[tuple[str, Image.Image]]], tile_px: int) -> Image.Image:
    """One white sheet of (heading, image) cells, every cell `tile_px` square under its heading."""
    cell_w, cell_h = tile_px + _MARGIN_PX, tile_px + _HEADING_PX + _MARGIN_PX
    columns = max(len(row) for row in rows)
    sheet = Image.new("RGB", (columns * cell_w + _MARGIN_PX, len(rows) * cell_h + _MARGIN_PX), _PAPER)
    draw, font = ImageDraw.Draw(sheet), load_font(12)
    for row_index, row in enumerate(rows):
        for column, (heading, image) in enumerate(row):
            x, y = _MARGIN_PX + column * cell_w, _MARGIN_PX + row_index * cell_h
            draw.text((x, y + 2), heading, fill=_INK, font=font)
            sheet.paste(image, (x, y + _HEADING_PX))
    return sheet


def draw_detections(
    picture: str | os.PathLike | Image.Image,
    detections: Sequence[Mapping],
    category_ids: Sequence[int],
    masks: np.ndarray | None = None,
) -> Image.Image:
    """The upright image with its detections, the first ones on top; a small one is enlarged.

    Args:
        picture: a file, or an upright image.
        detections: COCO results with "category_name", as `inference.Predictor` gives them.
        category_ids: of all classes; the place in it gives a class its colour.
        masks: (N, H, W) bool of the detections.
    """
    boxes_xyxy = np.array([detection["bbox"] for detection in detections], dtype=np.float64).reshape(-1, 4)
    boxes_xyxy[:, 2:] += boxes_xyxy[:, :2]
    indices = [list(category_ids).index(detection["category_id"]) for detection in detections]
    image = picture if isinstance(picture, Image.Image) else open_upright(picture)
    return draw_objects(image, boxes_xyxy, indices, [_label(detection) for detection in detections], masks)


def _label(detection: Mapping) -> str:
    """ "cat 0.93", with the number of an object that is followed: "cat 7 0.93"."""
    track = detection.get("track_id")
    return f"{detection['category_name']}{'' if track is None else f' {track}'} {detection['score']:.2f}"


# ------------------------------------------------------------------------------- ground truth beside predictions


class _Names:
    """Class names by contiguous index, and the contiguous index of a data set's own category id."""

    def __init__(self, class_names: Sequence[str] | Mapping[int, str]):
        if not isinstance(class_names, Mapping):
            class_names = {index + 1: name for index, name in enumerate(class_names)}
        self.names = [class_names[key] for key in sorted(class_names)]
        self.index_of = {key: index for index, key in enumerate(sorted(class_names))}

    def index_of_category(self, category_id: int) -> int:
        if category_id not in self.index_of:
            known = list(self.index_of)
            raise ValueError(f"category id {category_id} of a prediction is unknown: the known ids are {known}")
        return self.index_of[category_id]


def ground_truth_of(record: dict) -> tuple[np.ndarray, list[int], list[bool]]:
    """Boxes XYXY (N, 4), class indices and crowd flags of a data set record."""
    annotations = record.get("annotations", [])
    boxes = [BoxMode.convert(list(map(float, a["bbox"])), a["bbox_mode"], BoxMode.XYXY_ABS) for a in annotations]
    crowd = [bool(a.get("iscrowd", 0)) for a in annotations]
    return np.array(boxes, dtype=np.float64).reshape(-1, 4), [a["category_id"] for a in annotations], crowd


def _from_instances(prediction: Prediction) -> Drawable:
    """(boxes XYXY, scores, class indices) of `Instances`, or of a model output that holds them."""
    instances = prediction["instances"] if isinstance(prediction, Mapping) else prediction
    instances = instances.to("cpu")
    boxes = instances.pred_boxes.tensor.detach().numpy()
    return boxes, instances.scores.detach().numpy(), instances.pred_classes.numpy()


def _from_coco_results(results: Sequence[dict], names: _Names) -> Drawable:
    """The same of one image's COCO results, whose boxes are XYWH and whose category ids are the data set's own."""
    boxes = np.array([result["bbox"] for result in results], dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    classes = np.array([names.index_of_category(result["category_id"]) for result in results], dtype=np.int64)
    return boxes, np.array([result["score"] for result in results], dtype=np.float64), classes


def _predictions_by_image(records: Sequence[dict], predictions: Predictions, names: _Names) -> dict[int, Drawable]:
    """image_id -> (boxes XYXY, scores, class indices), from any of the forms that `contact_sheet` takes."""
    if isinstance(predictions, Mapping):
        return {image_id: _from_instances(value) for image_id, value in predictions.items()}
    if len(predictions) and isinstance(predictions[0], Mapping) and "category_id" in predictions[0]:
        grouped = {}
        for result in predictions:
            grouped.setdefault(result["image_id"], []).append(result)
        return {image_id: _from_coco_results(results, names) for image_id, results in grouped.items()}
    if len(predictions) not in (0, len(records)):
        raise ValueError(f"{len(predictions)} predictions for {len(records)} records: give one for each, in order")
    return {record["image_id"]: _from_instances(value) for record, value in zip(records, predictions)}


def _truth_tile(record: dict, image: Image.Image, names: _Names, tile_px: int) -> Image.Image:
    boxes, classes, crowd = ground_truth_of(record)
    labels = [names.names[index] + (" (crowd)" if is_crowd else "") for index, is_crowd in zip(classes, crowd)]
    return tile(image, boxes, classes, labels, tile_px)


def _prediction_tile(
    prediction: Drawable | None, image: Image.Image, names: _Names, tile_px: int, threshold: float
) -> Image.Image:
    boxes, scores, classes = prediction or (np.zeros((0, 4)), np.zeros(0), np.zeros(0, dtype=np.int64))
    order = [int(i) for i in np.argsort(-scores, kind="stable") if scores[i] >= threshold]
    labels = [f"{names.names[classes[i]]} {scores[i]:.2f}" for i in order]
    return tile(image, boxes[order], [int(classes[i]) for i in order], labels, tile_px)


def contact_sheet(
    records: Sequence[dict],
    predictions: Predictions,
    class_names: Sequence[str] | Mapping[int, str],
    path: str | os.PathLike,
    columns: int = 4,
    max_images: int = 12,
    score_threshold: float = 0.3,
    tile_px: int = 224,
) -> Path:
    """Save a sheet of images, each twice: with its ground truth, and beside it with its predictions.

    Args:
        records: data set dicts; the first `max_images` are drawn.
        predictions: a list of COCO results (`coco_instances_results.json`), or one `Instances` (or model output) for
            each record in order, or a dict of those by image_id. Boxes refer to the original image.
        class_names: names in contiguous order; COCO results then must have category ids 1..C. For other ids a dict
            {category id: name}.
        path: the file to write; its folder is created.
        columns: pairs in a row.
        score_threshold: predictions below it are not drawn.
        tile_px: long side of every image on the sheet.

    Returns:
        the path.

    Raises:
        ValueError: no records, predictions that do not fit them, or a category id without a name.
    """
    if not records:
        raise ValueError("a contact sheet needs at least one record")
    names = _Names(class_names)
    by_image = _predictions_by_image(records, predictions, names)
    cells = []
    for record in records[:max_images]:
        image = open_upright(record["file_name"])
        prediction = _prediction_tile(by_image.get(record["image_id"]), image, names, tile_px, score_threshold)
        cells.append(("ground truth", _truth_tile(record, image, names, tile_px)))
        cells.append((f"predicted (score >= {score_threshold:g})", prediction))
    rows = [cells[start : start + 2 * columns] for start in range(0, len(cells), 2 * columns)]
    return save_picture(assemble(rows, tile_px), path)


def save_picture(picture: Image.Image, path: str | os.PathLike) -> Path:
    """Write a picture in the format of its file's ending, atomically; its folder is made if need be.

    Raises:
        UsageError: Pillow writes no such format.
    """
    path = Path(path)
    name = Image.registered_extensions().get(path.suffix.lower())
    if name not in Image.SAVE:
        raise UsageError(f"{path}: pictures are written as .png or .jpg, for example, not as {path.suffix!r}")
    with atomic_write(path) as file:
        picture.save(file, format=name)
    return path
