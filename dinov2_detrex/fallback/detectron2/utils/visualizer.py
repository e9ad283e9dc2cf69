"""How are boxes, masks and labels drawn over an image? With matplotlib, which is imported when something is drawn."""

import enum
import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco_mask

from ..structures import BitMasks, Boxes, BoxMode, Instances, PolygonMasks

__all__ = ["ColorMode", "VisImage", "Visualizer"]

Color = Any  # whatever matplotlib takes: "g", "#00ff00", (r, g, b) in [0, 1]
_DPI = 100
_GOLDEN_RATIO = (math.sqrt(5) - 1) / 2


class ColorMode(enum.Enum):
    IMAGE = 0  # a colour for each instance
    SEGMENTATION = 1  # a colour for each class, from the metadata's thing_colors
    IMAGE_BW = 2  # as IMAGE, over the image in gray


def _matplotlib(module: str):
    try:
        return __import__(f"matplotlib.{module}", fromlist=["_"])
    except ImportError as error:
        raise ImportError("detectron2.utils.visualizer draws with matplotlib: pip install matplotlib") from error


class VisImage:
    """A canvas of the image's size times `scale`, in the image's pixel coordinates.

    Args:
        img: (H, W, 3) RGB, uint8.
        scale: factor on the size of what comes out.
    """

    def __init__(self, img: np.ndarray, scale: float = 1.0):
        self.img = img
        self.scale = scale
        self.height, self.width = img.shape[:2]
        size_inch = [(int(side * scale) + 0.01) / _DPI for side in (self.width, self.height)]  # 0.01: floats round down
        self.fig = _matplotlib("figure").Figure(figsize=size_inch, dpi=_DPI, frameon=False)
        self.canvas = _matplotlib("backends.backend_agg").FigureCanvasAgg(self.fig)
        self.ax = self.fig.add_axes([0.0, 0.0, 1.0, 1.0])
        self.ax.axis("off")
        self.ax.imshow(img, extent=(0, self.width, self.height, 0), interpolation="nearest")
        self.ax.set(xlim=(0, self.width), ylim=(self.height, 0))

    def save(self, filepath: str | os.PathLike) -> None:
        self.fig.savefig(filepath)

    def get_image(self) -> np.ndarray:
        """(H * scale, W * scale, 3) RGB, uint8."""
        self.canvas.draw()
        return np.asarray(self.canvas.buffer_rgba())[..., :3].copy()


class Visualizer:
    """Draws over one image; every `draw_...` method returns the `VisImage`, and so does `get_output`.

    Args:
        img_rgb: (H, W, 3) RGB in 0..255.
        metadata: of the data set; `thing_classes` names the classes, `thing_colors` (0..255) colours them.
        scale: of the output.
        instance_mode: how instances are coloured.
        font_size_scale: factor on the size of labels.
    """

    def __init__(
        self,
        img_rgb: np.ndarray,
        metadata: Any = None,
        scale: float = 1.0,
        instance_mode: ColorMode = ColorMode.IMAGE,
        font_size_scale: float = 1.0,
    ):
        img = np.asarray(img_rgb).clip(0, 255).astype(np.uint8)
        if instance_mode is ColorMode.IMAGE_BW:
            img = img.astype(np.float32).mean(axis=2, keepdims=True).repeat(3, axis=2).astype(np.uint8)
        self.metadata = metadata
        self._instance_mode = instance_mode
        self.output = VisImage(img, scale)
        self._font_size = max(math.sqrt(img.shape[0] * img.shape[1]) / 90, 10 / scale) * font_size_scale

    def get_output(self) -> VisImage:
        return self.output

    def draw_instance_predictions(self, predictions: Instances, jittering: bool = True) -> VisImage:
        """Draw a detector's output.

        Args:
            predictions: with any of `pred_boxes`, `scores`, `pred_classes`, `pred_masks` ((N, H, W) or BitMasks).
            jittering: in SEGMENTATION mode, vary the colour among instances of a class.

        Raises:
            IndexError: a class beyond `thing_classes`.
        """
        classes = _to_list(predictions.pred_classes) if predictions.has("pred_classes") else None
        scores = _to_list(predictions.scores) if predictions.has("scores") else None
        return self.overlay_instances(
            boxes=predictions.pred_boxes if predictions.has("pred_boxes") else None,
            masks=predictions.pred_masks if predictions.has("pred_masks") else None,
            labels=self._labels(classes, scores, len(predictions)),
            assigned_colors=self._class_colors(classes, jittering),
        )

    def draw_dataset_dict(self, dic: dict) -> VisImage:
        """Draw the `annotations` of a data set record; a crowd is marked in its label."""
        annotations = dic.get("annotations") or []
        if not annotations:
            return self.output
        classes = [annotation["category_id"] for annotation in annotations]
        crowd = [annotation.get("iscrowd", 0) for annotation in annotations]
        masks = [annotation.get("segmentation") for annotation in annotations]
        return self.overlay_instances(
            boxes=[BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in annotations],
            masks=masks if any(masks) else None,
            labels=self._labels(classes, None, len(annotations), crowd),
            assigned_colors=self._class_colors(classes, jittering=True),
        )

    def overlay_instances(
        self,
        *,
        boxes: Any = None,
        labels: Sequence[str] | None = None,
        masks: Any = None,
        assigned_colors: Sequence[Color] | None = None,
        alpha: float = 0.5,
    ) -> VisImage:
        """Draw N instances, the largest first.

        Args:
            boxes: `Boxes`, or (N, 4) as x0, y0, x1, y1.
            labels: N texts.
            masks: `BitMasks`, `PolygonMasks`, (N, H, W), or N of: polygons, RLE dicts, (H, W) arrays, None.
            assigned_colors: N colours; None gives each instance its own.

        Raises:
            AssertionError: the lengths differ.
        """
        boxes_xyxy = None if boxes is None else _to_boxes_xyxy(boxes)
        masks = None if masks is None else list(_to_masks(masks))
        given = [values for values in (boxes_xyxy, masks, labels, assigned_colors) if values is not None]
        lengths = [len(values) for values in given]
        assert len(set(lengths)) <= 1, f"boxes, masks, labels and colours must agree in number, got {lengths}"
        count = lengths[0] if lengths else 0
        colors = [_color(i) for i in range(count)] if assigned_colors is None else list(assigned_colors)
        for i in _largest_first(boxes_xyxy, count):
            self._draw_mask(None if masks is None else masks[i], colors[i], alpha)
            if boxes_xyxy is not None:
                self.draw_box(boxes_xyxy[i], edge_color=colors[i], alpha=alpha)
            if labels is not None and boxes_xyxy is not None and labels[i]:
                self.draw_text(labels[i], boxes_xyxy[i][:2], color=colors[i], horizontal_alignment="left")
        return self.output

    def draw_box(self, box_coord: Any, alpha: float = 0.5, edge_color: Color = "g", line_style: str = "-") -> VisImage:
        x0, y0, x1, y1 = (float(value) for value in box_coord)
        edges = dict(fill=False, edgecolor=edge_color, linewidth=self._line_width, alpha=alpha, linestyle=line_style)
        self.output.ax.add_patch(_matplotlib("patches").Rectangle((x0, y0), x1 - x0, y1 - y0, **edges))
        return self.output

    def draw_text(
        self,
        text: str,
        position: Any,
        *,
        font_size: float | None = None,
        color: Color = "g",
        horizontal_alignment: str = "center",
        rotation: float = 0,
    ) -> VisImage:
        """Write text below `position` (x, y), on a dark ground and lightened so that it can be read there."""
        red, green, blue = _matplotlib("colors").to_rgb(color)
        lightened = [0.5 + 0.5 * channel for channel in (red, green, blue)]
        points = (self._font_size if font_size is None else font_size) * self.output.scale
        self.output.ax.text(
            float(position[0]),
            float(position[1]),
            text,
            size=points,
            color=lightened,
            rotation=rotation,
            verticalalignment="top",
            horizontalalignment=horizontal_alignment,
            bbox={"facecolor": "black", "alpha": 0.8, "pad": 0.7, "edgecolor": "none"},
            zorder=10,
            clip_on=True,
        )
        return self.output

    def draw_polygon(self, segment: Any, color: Color, edge_color: Color | None = None, alpha: float = 0.5) -> VisImage:
        """Fill a polygon of (n, 2) points."""
        polygon = _matplotlib("patches").Polygon(
            np.asarray(segment, dtype=float).reshape(-1, 2),
            facecolor=_matplotlib("colors").to_rgba(color, alpha),
            edgecolor=color if edge_color is None else edge_color,
            linewidth=self._line_width,
        )
        self.output.ax.add_patch(polygon)
        return self.output

    def draw_binary_mask(self, binary_mask: Any, color: Color | None = None, *, alpha: float = 0.5) -> VisImage:
        """Tint the pixels where an (H, W) mask is true."""
        mask = np.asarray(binary_mask).astype(bool)
        tint = np.zeros((*mask.shape, 4))
        tint[mask] = _matplotlib("colors").to_rgba(_color(0) if color is None else color, alpha)
        extent = (0, self.output.width, self.output.height, 0)
        self.output.ax.imshow(tint, extent=extent, interpolation="nearest", zorder=2)
        return self.output

    @property
    def _line_width(self) -> float:
        return max(self._font_size / 4, 1) * self.output.scale

    def _draw_mask(self, mask: Any, color: Color, alpha: float) -> None:
        if mask is None:
            return
        if isinstance(mask, list):
            for polygon in mask:
                self.draw_polygon(polygon, color, alpha=alpha)
        else:
            self.draw_binary_mask(
                coco_mask.decode(_compressed(mask)) if isinstance(mask, dict) else mask, color, alpha=alpha
            )

    def _labels(self, classes: list | None, scores: list | None, count: int, crowd: list | None = None) -> list[str]:
        """ "cat 92%", "cat|crowd", or the class index where the classes have no names."""
        names = getattr(self.metadata, "thing_classes", None)
        labels = []
        for i in range(count):
            name = "" if classes is None else names[classes[i]] if names else str(classes[i])
            score = "" if scores is None else f"{scores[i] * 100:.0f}%"
            labels.append(" ".join(filter(None, (name, score))) + ("|crowd" if crowd and crowd[i] else ""))
        return labels

    def _class_colors(self, classes: list | None, jittering: bool) -> list[Color] | None:
        colors = getattr(self.metadata, "thing_colors", None)
        if self._instance_mode is not ColorMode.SEGMENTATION or not colors or classes is None:
            return None
        shifts = [0.15 * (i * _GOLDEN_RATIO % 1 - 0.5) if jittering else 0.0 for i in range(len(classes))]
        return [np.clip(np.asarray(colors[c]) / 255 + shift, 0, 1) for c, shift in zip(classes, shifts)]


def _to_list(values: Any) -> list:
    return values.tolist() if isinstance(values, (torch.Tensor, np.ndarray)) else list(values)


def _to_array(values: Any) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)


def _to_boxes_xyxy(boxes: Any) -> np.ndarray:
    """(N, 4) of Boxes, a tensor on any device, an array or a list."""
    return _to_array(boxes.tensor if isinstance(boxes, Boxes) else boxes).reshape(-1, 4)


def _to_masks(masks: Any) -> Sequence:
    if isinstance(masks, PolygonMasks):
        return masks.polygons
    return _to_array(masks.tensor if isinstance(masks, BitMasks) else masks) if not isinstance(masks, list) else masks


def _compressed(rle: dict) -> dict:
    """RLE as `pycocotools` decodes it; COCO's crowd files hold plain lists of counts."""
    return coco_mask.frPyObjects(rle, *rle["size"]) if isinstance(rle["counts"], list) else rle


def _largest_first(boxes_xyxy: np.ndarray | None, count: int) -> Sequence[int]:
    if boxes_xyxy is None:
        return range(count)
    return np.argsort(-np.prod(boxes_xyxy[:, 2:] - boxes_xyxy[:, :2], axis=1), kind="stable").tolist()


def _color(index: int) -> tuple[float, float, float]:
    """Colours that differ well from their neighbours: hues at steps of the golden ratio."""
    return tuple(_matplotlib("colors").hsv_to_rgb((index * _GOLDEN_RATIO % 1, 0.8, 0.95)))
