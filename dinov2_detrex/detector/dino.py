"""The detector: images in, losses or boxes out. DINO, DETR with improved denoising anchor boxes (Zhang et al. 2022).

images -> backbone -> neck -> transformer -> heads -> losses (training) or boxes (evaluation)
"""

import copy
import math
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.modeling import Backbone
from detectron2.structures import ImageList
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from dinov2_detrex.detector.criterion import DINOCriterion
from dinov2_detrex.detector.decoder import refine
from dinov2_detrex.detector.denoising import DenoisingQueries, prepare_for_cdn
from dinov2_detrex.detector.layers import MLP, at_least_float32
from dinov2_detrex.detector.levels import Levels, shapes_of
from dinov2_detrex.detector.loss_names import spelled_out, weighted
from dinov2_detrex.detector.outputs import (
    DenoisingMeta,
    OneToManyMeta,
    Outputs,
    Prediction,
    of_queries,
    split_groups,
    split_queries,
)
from dinov2_detrex.detector.padding import is_padded, padding_masks, valid_ratios
from dinov2_detrex.detector.pictures import training_image
from dinov2_detrex.detector.postprocess import best_detections, to_instances
from dinov2_detrex.detector.targets import Targets, targets_of
from dinov2_detrex.detector.transformer import DINOTransformer, TransformerOutput
from dinov2_detrex.detector.trial import check_position_embedding, try_neck
from dinov2_detrex.runtime.errors import UsageError
from dinov2_detrex.runtime.values import (
    refused,
    require_equal,
    require_flag,
    require_number,
    require_numbers,
    require_whole,
)

Record = dict[str, Any]  # what the detector is given of an image, or tells of it

PRIOR = 0.01  # probability of an object that every class head starts with (Lin et al. 2017, section 3.3)


class DINO(nn.Module):
    """A DINO detector on any backbone.

    Args:
        backbone: a detectron2 `Backbone`; images are padded to its `size_divisibility`.
        position_embedding: mask (B, H, W) -> code (B, D, H, W).
        neck: features of the backbone -> levels of D channels, high to low resolution.
        transformer: a `DINOTransformer`.
        embed_dim: D.
        num_classes: K.
        num_queries: the transformer's `two_stage_num_proposals`.
        criterion: a `DINOCriterion`; needed for training alone.
        pixel_mean, pixel_std: of each input channel, in the units of the input's pixels.
        aux_loss: train every decoder layer, not the last alone.
        select_box_nums_for_evaluation: detections per image.
        device: accepted for old configs; the detector is where its parameters are.
        dn_number: about how many denoising positives an image gets in training; 0 for none.
        label_noise_ratio, box_noise_scale: how much they are noised.
        input_format: channel order of the input, "RGB" or "BGR"; only pictures for people depend on it.
        vis_period: put an image with ground truth and predictions into the event storage every so many iterations.
        square_pad: pad to the backbone's `padding_constraints["square_size"]` where all images fit into it.
        max_objects: so many objects of an image can be found; None leaves that to the two numbers that limit it.

    Raises:
        UsageError: a number is out of its range, or the parts do not go together; a ValueError.
        ValueError: the transformer has groups of training queries and the criterion takes none; or `num_queries` or
            `select_box_nums_for_evaluation` is below `max_objects`.
    """

    pixel_mean: Tensor
    pixel_std: Tensor
    class_dependent = ("class_embed", "transformer.decoder.class_embed", "label_enc")  # parts with a row for each class

    def __init__(
        self,
        backbone: Backbone,
        position_embedding: nn.Module,
        neck: nn.Module,
        transformer: DINOTransformer,
        embed_dim: int,
        num_classes: int,
        num_queries: int,
        criterion: DINOCriterion | None = None,
        pixel_mean: Sequence[float] = (123.675, 116.280, 103.530),
        pixel_std: Sequence[float] = (58.395, 57.120, 57.375),
        aux_loss: bool = True,
        select_box_nums_for_evaluation: int = 300,
        device: str = "cuda",
        dn_number: int = 100,
        label_noise_ratio: float = 0.2,
        box_noise_scale: float = 1.0,
        input_format: str = "RGB",
        vis_period: int = 0,
        square_pad: bool = False,
        max_objects: int | None = None,
    ):
        super().__init__()
        require_whole(self, 1, embed_dim=embed_dim, num_classes=num_classes, num_queries=num_queries)
        require_whole(self, 1, select_box_nums_for_evaluation=select_box_nums_for_evaluation)
        require_whole(self, 0, dn_number=dn_number, vis_period=vis_period)
        require_number(self, 0, 2, label_noise_ratio=label_noise_ratio)
        require_number(self, 0, box_noise_scale=box_noise_scale)
        require_flag(self, aux_loss=aux_loss, square_pad=square_pad)
        if input_format not in ("RGB", "BGR"):
            raise refused(self, "input_format", input_format, "'RGB' or 'BGR'")
        self._check_parts(backbone, neck, transformer, criterion, embed_dim, num_classes, num_queries)
        self._check_channels(backbone, pixel_mean, pixel_std)
        self._check_maps(try_neck(backbone, neck), neck, transformer)
        check_position_embedding(position_embedding, embed_dim)
        self.one_to_many_groups = getattr(transformer, "one_to_many_groups", 0)
        self._check_groups(criterion)
        self._check_max_objects(max_objects, num_queries, select_box_nums_for_evaluation)
        self.backbone = backbone
        self.position_embedding = position_embedding
        self.neck = neck
        self.transformer = transformer
        self.softmax_classes = getattr(criterion, "loss_class_type", "focal_loss") == "ce_loss"
        self._build_heads(transformer, embed_dim, num_classes)
        self.criterion = criterion
        self.label_enc = nn.Embedding(num_classes, embed_dim)
        self.num_classes = num_classes
        self.num_queries = num_queries
        self.aux_loss = aux_loss
        self.select_box_nums_for_evaluation = select_box_nums_for_evaluation
        self.dn_number = dn_number
        self.label_noise_ratio = label_noise_ratio
        self.box_noise_scale = box_noise_scale
        self.input_format = input_format
        self.vis_period = vis_period
        self.square_pad = square_pad
        for name, values in (("pixel_mean", pixel_mean), ("pixel_std", pixel_std)):
            self.register_buffer(name, torch.tensor(list(values)).float().view(-1, 1, 1), persistent=False)
        self.init_weights()

    def _build_heads(self, transformer: DINOTransformer, embed_dim: int, num_classes: int) -> None:
        """A class head and a box head for every decoder layer, and one for the encoder's proposals at the end."""
        num_heads = transformer.decoder.num_layers + 1
        class_embed = nn.Linear(embed_dim, num_classes + self.softmax_classes)
        bbox_embed = MLP(embed_dim, embed_dim, 4, 3)
        self.class_embed = nn.ModuleList(copy.deepcopy(class_embed) for _ in range(num_heads))
        self.bbox_embed = nn.ModuleList(copy.deepcopy(bbox_embed) for _ in range(num_heads))
        transformer.decoder.class_embed = self.class_embed
        transformer.decoder.bbox_embed = self.bbox_embed

    def _check_parts(
        self,
        backbone: Backbone,
        neck: nn.Module,
        transformer: DINOTransformer,
        criterion: DINOCriterion | None,
        embed_dim: int,
        num_classes: int,
        num_queries: int,
    ) -> None:
        """Refuse parts that were built for other numbers, as far as they say what they were built for."""
        require_equal(self, "num_queries", num_queries, two_stage_num_proposals=transformer.two_stage_num_proposals)
        require_equal(self, "embed_dim", embed_dim, transformer=transformer.embed_dim)
        require_equal(self, "num_classes", num_classes, criterion=getattr(criterion, "num_classes", None))
        known, wanted = set(backbone.output_shape()), getattr(neck, "in_features", ())
        unknown = [name for name in wanted if name not in known]
        if unknown:
            raise refused(neck, "in_features", list(wanted), f"among the backbone's maps, {', '.join(sorted(known))}")

    @staticmethod
    def _check_maps(features: Sequence[Tensor], neck: nn.Module, transformer: DINOTransformer) -> None:
        """Refuse a neck that gives another number of levels, or of channels, than the transformer takes."""
        levels, channels = transformer.num_feature_levels, transformer.embed_dim
        if features and (len(features) != levels or any(x.shape[1] != channels for x in features)):
            found = f"{len(features)} levels of {features[0].shape[1]} channels"
            raise refused(neck, "output", found, f"{levels} levels of {channels} channels")

    def _check_groups(self, criterion: DINOCriterion | None) -> None:
        """The transformer's groups of training queries need losses of their own."""
        groups = self.one_to_many_groups
        if groups and criterion is not None and not getattr(criterion, "takes_one_to_many", False):
            raise ValueError(f"one_to_many_groups={groups}: {type(criterion).__name__} has no losses for them")

    def _check_max_objects(self, max_objects: int | None, num_queries: int, num_selected: int) -> None:
        """Refuse a promise that the numbers of queries and of selected boxes do not keep."""
        if max_objects is not None and min(num_queries, num_selected) < max_objects:
            raise ValueError(
                f"num_queries ({num_queries}) and select_box_nums_for_evaluation ({num_selected}) "
                f"must both be at least max_objects ({max_objects})"
            )

    def _check_channels(self, backbone: Backbone, pixel_mean: Sequence[float], pixel_std: Sequence[float]) -> None:
        """Mean and deviation are one for each channel; one for all channels is as good."""
        require_numbers(self, pixel_mean=pixel_mean)
        require_numbers(self, 0, open_low=True, pixel_std=pixel_std)
        channels = getattr(backbone, "in_channels", None) or len(pixel_mean)
        for name, values in (("pixel_mean", pixel_mean), ("pixel_std", pixel_std)):
            if len(values) not in (1, channels):
                raise refused(self, name, list(values), f"a list of {channels}, a number for each channel")

    @torch.no_grad()
    def init_weights(self) -> None:
        """First boxes equal their references, first scores are `PRIOR`, the neck starts with Xavier weights."""
        for head in self.class_embed:
            nn.init.constant_(head.get_parameter("bias"), -math.log((1 - PRIOR) / PRIOR))
        for head in self.bbox_embed:
            *_, weight, bias = head.parameters()  # of the last layer
            nn.init.zeros_(weight)
            nn.init.zeros_(bias)
        for module in self.neck.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    @property
    def device(self) -> torch.device:
        """Where the detector's parameters are."""
        return self.pixel_mean.device

    @property
    def dtype(self) -> torch.dtype:
        """What the detector's parameters are: `half()`, `double()` and `to(torch.bfloat16)` change it."""
        return self.pixel_mean.dtype

    def forward(self, batched_inputs: list[Record]) -> dict[str, Tensor] | list[Record]:
        """Losses in training, detections in evaluation.

        Args:
            batched_inputs: per image `image` (C, H, W), any dtype; in training `instances` with `gt_boxes` and
                `gt_classes`; in evaluation optionally `height` and `width`, the size that the boxes should refer to.

        Returns:
            in training a dict of weighted scalar losses; in evaluation per image `{"instances": Instances}` with
            `pred_boxes`, `scores` (descending) and `pred_classes`.

        Raises:
            KeyError: a training record has no `instances`.
            ValueError: a label is not below `num_classes`; or the training images have fewer cells than queries.
            NonFinitePredictions: predictions are NaN or infinite.
        """
        images = self.preprocess(batched_inputs)
        if not self.training:
            outputs = self.predict(images.tensor, images.image_sizes)
            return self.postprocess(outputs, images.image_sizes, batched_inputs)
        targets = targets_of(batched_inputs, self.num_classes, self.device)
        denoising = self.denoising_queries(targets)
        outputs = self.predict(images.tensor, images.image_sizes, denoising)
        self.show(outputs, images.image_sizes, batched_inputs, denoising)
        return self.losses(outputs, targets, denoising)

    def preprocess(self, batched_inputs: list[Record]) -> ImageList:
        """Normalise the images and pad them at the right and at the bottom, to one size that the backbone can take."""
        images = [record["image"].to(self.device, non_blocking=True) for record in batched_inputs]
        for image in images:
            if len(self.pixel_mean) not in (1, image.shape[0]):
                raise refused(self, "pixel_mean", self.pixel_mean.flatten().tolist(), f"of {image.shape[0]} channels")
        images = [((image - self.pixel_mean) / self.pixel_std).to(self.dtype) for image in images]
        largest = max(max(image.shape[-2:]) for image in images)
        return ImageList.from_tensors(images, padding_constraints=self.padding_constraints(largest))

    def padding_constraints(self, largest_px: int) -> dict[str, int]:
        """What the batch's size must fulfil: the backbone's divisibility, and its square where that was asked for."""
        wanted = self.backbone.padding_constraints
        divisibility = self.backbone.size_divisibility or wanted.get("size_divisibility", 0)
        constraints = {
            "size_divisibility": divisibility or wanted.get("size_divisiblity", 0)
        }  # as detectron2 spells it
        square = wanted.get("square_size", 0) if self.square_pad else 0
        if square >= largest_px > 0:
            constraints["square_size"] = square
        elif square:
            warnings.warn(f"images are larger than the square of {square} px and are not padded to it", stacklevel=2)
        return constraints

    def denoising_queries(self, targets: Targets) -> DenoisingQueries | None:
        """Noised ground truth for the decoder to restore, None if there is none."""
        noise = (self.label_noise_ratio, self.box_noise_scale)
        return prepare_for_cdn(targets, self.dn_number, *noise, self.num_queries, self.label_enc)

    def predict(
        self,
        images: Tensor,
        image_sizes: list[tuple[int, int]] | None = None,
        denoising: DenoisingQueries | None = None,
    ) -> Outputs:
        """Outputs for normalised images.

        Args:
            images: (B, C, H, W), normalised and padded.
            image_sizes: (height, width) of each image without its padding; None where nothing is padded.
            denoising: queries to put before the ordinary ones.

        Returns:
            `pred_logits` (B, Q, K) and `pred_boxes` (B, Q, 4), CXCYWH normalised to the unpadded image, of the last
            layer, denoising queries first; `aux_outputs`, a list of the same for the earlier layers; `enc_outputs`,
            the same for the encoder's proposals.

        Raises:
            UsageError: in training, the images have fewer cells than queries; a ValueError.
        """
        features = self.neck(self.backbone(images))
        canvas_hw = (images.shape[-2], images.shape[-1])
        self.check_cells(features, canvas_hw)
        found = self.transformer(self.levels(features, canvas_hw, image_sizes), denoising)
        if self.training:  # the embedding takes part in every step, also in one without objects
            found = replace(found, states=found.states + 0.0 * self.label_enc.weight[0, 0])
        return self.heads(found)

    def check_cells(self, features: list[Tensor], canvas_hw: tuple[int, int]) -> None:
        """In training every query needs a cell to be selected from.

        Raises:
            UsageError: there are fewer cells than queries; a ValueError.
        """
        num_cells = sum(height * width for height, width in shapes_of(features))
        if self.training and num_cells < self.num_queries:
            raise UsageError(
                f"images of {canvas_hw[0]} x {canvas_hw[1]} pixels give {num_cells} cells, too few for "
                f"{self.num_queries} queries: use larger images or fewer queries"
            )

    def levels(
        self, features: list[Tensor], canvas_hw: tuple[int, int], image_sizes: list[tuple[int, int]] | None = None
    ) -> Levels:
        """The features with their positions and their padding.

        Args:
            features: maps (B, D, H_l, W_l).
            canvas_hw: size of the padded batch in pixels.
            image_sizes: (height, width) of each image in pixels; None where nothing is padded.
        """
        if image_sizes is None or not is_padded(image_sizes, canvas_hw):
            return Levels.from_masks(features, self.positions(features, None), None)
        masks = padding_masks(image_sizes, canvas_hw, shapes_of(features), features[0].device)
        ratios = valid_ratios(image_sizes, canvas_hw, len(features), features[0].device)
        return Levels(features, self.positions(features, masks), masks, ratios)

    def positions(self, features: list[Tensor], masks: list[Tensor] | None) -> list[Tensor]:
        """Position codes (B, D, H_l, W_l) of every level, of a batch of one where nothing is padded."""
        if masks is None:
            masks = [torch.zeros((1, *x.shape[-2:]), dtype=torch.bool, device=x.device) for x in features]
        return [self.position_embedding(mask) for mask in masks]

    def heads(self, found: TransformerOutput) -> Outputs:
        """Classes and boxes of every decoder layer and of the encoder's proposals.

        Queries that stand for padding find nothing: their logits are -inf, but for the background of a softmax.
        """
        layers: list[Prediction] = []
        for state, boxes, class_head, box_head in zip(
            found.states, found.entering_boxes, self.class_embed, self.bbox_embed
        ):
            logits = class_head(state)
            if found.query_padding_mask is not None:
                no_class = found.query_padding_mask[..., None].expand(-1, -1, self.num_classes)
                no_class = F.pad(no_class, (0, 1)) if self.softmax_classes else no_class
                logits = logits.masked_fill(no_class, -torch.inf)
            layers.append({"pred_logits": logits, "pred_boxes": refine(box_head(state), boxes)})
        selected = self.class_embed[-1](found.selected_memory)
        return {
            **layers[-1],
            "aux_outputs": layers[:-1] if self.aux_loss else [],
            "enc_outputs": {"pred_logits": selected, "pred_boxes": found.selected_boxes},
        }

    def losses(self, outputs: Outputs, targets: Targets, denoising: DenoisingQueries | None) -> dict[str, Tensor]:
        """Weighted losses; the criterion gets detrex's forms, the denoising queries apart from the ordinary ones."""
        if self.criterion is None:
            raise ValueError("training needs a criterion, and the detector was built with criterion=None")
        dn_metas, more = None, {}
        if denoising is not None:
            outputs, denoised = split_queries(outputs, denoising.count)
            dn_metas = DenoisingMeta(
                single_padding=denoising.layout.group_size,
                dn_num=denoising.layout.num_groups,
                output_known_lbs_bboxes=denoised,
            )
        if self.one_to_many_groups:
            outputs, groups = split_groups(outputs, self.num_queries)
            more = {"one_to_many": OneToManyMeta(num_groups=self.one_to_many_groups, outputs=groups)}
        losses = self.criterion(outputs, targets, dn_metas, **more)
        return weighted(losses, spelled_out(self.criterion.weight_dict, self.transformer.decoder.num_layers))

    @torch.no_grad()
    def show(
        self,
        outputs: Outputs,
        image_sizes: list[tuple[int, int]],
        batched_inputs: list[Record],
        denoising: DenoisingQueries | None,
    ) -> None:
        """Every `vis_period` iterations put a picture of the first image into the event storage."""
        if not self.vis_period or get_event_storage().iter % self.vis_period:
            return
        ordinary = outputs if denoising is None else split_queries(outputs, denoising.count)[0]
        at_input_size = [{}]
        alone: Prediction = {"pred_logits": ordinary["pred_logits"][:1], "pred_boxes": ordinary["pred_boxes"][:1]}
        first = of_queries(alone, slice(self.num_queries))
        found = self.postprocess(first, image_sizes[:1], at_input_size)[0]["instances"]
        image = training_image(batched_inputs[0], found, self.input_format)
        get_event_storage().put_image("ground truth and predictions", image)

    def postprocess(
        self, outputs: Prediction, image_sizes: list[tuple[int, int]], batched_inputs: list[Record]
    ) -> list[Record]:
        """Detections of every image, in pixels of the size that its record asks for."""
        probabilities = self.probabilities(at_least_float32(outputs["pred_logits"]))
        best = best_detections(probabilities, outputs["pred_boxes"], self.select_box_nums_for_evaluation)
        results = []
        for record, image_hw, scores, classes, boxes in zip(batched_inputs, image_sizes, *best):
            output_hw = (record.get("height", image_hw[0]), record.get("width", image_hw[1]))
            results.append({"instances": to_instances(scores, classes, boxes, image_hw, output_hw)})
        return results

    def probabilities(self, logits: Tensor) -> Tensor:
        """Class probabilities; a softmax also has the background, which is left out."""
        return F.softmax(logits, dim=-1)[..., :-1] if self.softmax_classes else logits.sigmoid()
