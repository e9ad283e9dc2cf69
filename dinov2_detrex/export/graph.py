"""What is the graph that is exported? From uint8 pixels to boxes, by the detector's own parts in an exportable form.

Nothing in it depends on the data: the number of detections is fixed, and those that are none have score 0.
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinov2_detrex.backbone import TimmBackbone
from dinov2_detrex.detector import DINO
from dinov2_detrex.detector.deformable_attention import MultiScaleDeformableAttention
from dinov2_detrex.detector.layers import at_least_float32
from dinov2_detrex.detector.levels import Levels, shapes_of
from dinov2_detrex.detector.postprocess import best_detections
from dinov2_detrex.export.attention import GatheringAttention
from dinov2_detrex.export.positions import settle_positions

IMAGES, SIZES = "images", "sizes"
BOXES, SCORES, LABELS = "boxes", "scores", "labels"
RAW_OUTPUTS = ("pred_logits", "pred_boxes")


class DetectionGraph(nn.Module):
    """Pixels in, boxes out. See `forward`.

    Args:
        model: what `exportable` returned; where it takes BGR, the graph takes RGB all the same.
    """

    def __init__(self, model: DINO):
        super().__init__()
        self.model = model
        self.multiple = canvas_multiple(model)

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Detect.

        Args:
            images: (B, H, W, 3), uint8, RGB; each image in the upper left corner of its canvas, whatever is beside it.
            sizes: (B, 2), int64: (height, width) of each image in pixels.

        Returns:
            boxes (B, n, 4), XYXY in pixels of the image; scores (B, n), 0 for entries that are none; labels (B, n),
            int64, indices of classes.
        """
        pixels, canvas_hw = self.prepare(images, sizes)
        features = self.model.neck(self.model.backbone(pixels))
        levels = self.levels(features, canvas_hw, sizes)
        outputs = self.model.heads(self.model.transformer(levels))
        return self.detections(outputs["pred_logits"], outputs["pred_boxes"], sizes)

    def prepare(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Normalised pixels (B, 3, H', W'), zero outside of the images, and (H', W') that all levels tile."""
        height, width = images.shape[1:3]
        pixels = images.to(torch.float32).permute(0, 3, 1, 2)  # TensorRT takes uint8 into a Cast alone; B 3 H W
        pixels = pixels.flip(1) if self.model.input_format == "BGR" else pixels
        pixels = (pixels - self.model.pixel_mean) / self.model.pixel_std
        outside = beyond(torch.arange(height), torch.arange(width), sizes)
        pixels = pixels.masked_fill(outside[:, None], 0.0)
        canvas_hw = up_to_multiple(height, self.multiple), up_to_multiple(width, self.multiple)
        if not isinstance(height, torch.SymInt) or not isinstance(width, torch.SymInt):
            pixels = F.pad(pixels, (0, canvas_hw[1] - width, 0, canvas_hw[0] - height))
        return pixels, canvas_hw

    def levels(self, features: list[Tensor], canvas_hw: tuple[int, int], sizes: Tensor) -> Levels:
        """As `DINO.levels`, from sizes that are known when the graph runs."""
        first_pixels = [
            [torch.arange(cells) * pixels // cells for cells, pixels in zip(cells_hw, canvas_hw)]
            for cells_hw in shapes_of(features)
        ]
        masks = [beyond(first_y, first_x, sizes) for first_y, first_x in first_pixels]
        canvas = torch.stack([torch.scalar_tensor(n, dtype=torch.float32) for n in canvas_hw])
        ratios = (sizes / canvas).flip(-1)[:, None].expand(-1, len(features), -1)
        return Levels(features, self.model.positions(features, masks), masks, ratios)

    def detections(self, logits: Tensor, boxes: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As `DINO.postprocess`, but entries that it leaves out stay, with score 0."""
        probabilities = self.model.probabilities(at_least_float32(logits))
        count = self.model.select_box_nums_for_evaluation
        scores, labels, boxes = best_detections(probabilities, boxes, count)
        extent = sizes.flip(-1).repeat(1, 2)[:, None].to(boxes.dtype)  # B 1 (w, h, w, h)
        boxes = torch.minimum((boxes * extent).clamp(min=0.0), extent)
        empty = (boxes[..., 2:] <= boxes[..., :2]).any(-1)
        return boxes, scores.masked_fill(empty, 0.0), labels


class RawGraph(nn.Module):
    """The network alone: normalised images (B, 3, H, W) of a size that all levels tile, to logits and boxes."""

    def __init__(self, model: DINO):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, Q, K) and boxes (B, Q, 4), CXCYWH normalised to the image, of the last layer."""
        outputs = self.model.predict(images)
        return outputs["pred_logits"], outputs["pred_boxes"]


def beyond(y: Tensor, x: Tensor, sizes: Tensor) -> Tensor:
    """(B, len(y), len(x)), True where a pixel (y, x) lies outside of an image of (height, width) `sizes` (B, 2)."""
    below, right = y >= sizes[:, :1], x >= sizes[:, 1:]
    return below[:, :, None] | right[:, None, :]


def up_to_multiple(size: int, multiple: int) -> int:
    """The next multiple at or above; a symbol stands for one already."""
    return size if isinstance(size, torch.SymInt) else -(-size // multiple) * multiple


def canvas_multiple(model: DINO) -> int:
    """What the height and width of the network's input must be multiples of, in pixels."""
    return max(model.padding_constraints(0)["size_divisibility"], 1)


def exportable(
    model: DINO, canvas_hw: tuple[int, int] | None, attention: type[GatheringAttention] = GatheringAttention
) -> DINO:
    """A copy of a detector, for inference on the CPU, in the form that exporters read.

    Args:
        model: the detector; it stays as it is.
        canvas_hw: the size of the network's input; None where the graph is to take any.
        attention: the form of deformable attention.
    """
    model = copy.deepcopy(model).to("cpu", torch.float32).eval().requires_grad_(False)
    model.aux_loss = False
    model.criterion = None
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, MultiScaleDeformableAttention):
                setattr(parent, name, attention(child))
    for module in model.modules():
        if isinstance(module, TimmBackbone):
            settle_positions(module, canvas_hw)
    return model
