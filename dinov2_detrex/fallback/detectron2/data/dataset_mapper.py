"""From a data set dict to a model input, with one list of augmentations: `DatasetMapper`."""

import copy
import logging
from collections.abc import Sequence

import numpy as np
import torch

from . import detection_utils as utils
from . import transforms as T

logger = logging.getLogger(__name__)


class DatasetMapper:
    """Read the image, augment it and its objects, make tensors.

    Args:
        is_train: False drops the annotations and makes no instances.
        augmentations: augmentations or transforms; they see the image alone.
        image_format: see `detection_utils.read_image`.
        use_instance_mask: keep segmentations, as "gt_masks".
        instance_mask_format: "polygon" or "bitmask".
        recompute_boxes: tight boxes around the augmented masks instead of augmented boxes, which grow loose where a
            crop cuts the object; needs `use_instance_mask`.

    Raises:
        NotImplementedError: keypoints or precomputed proposals are asked for.
    """

    def __init__(
        self,
        is_train: bool,
        *,
        augmentations: Sequence[T.Augmentation | T.Transform],
        image_format: str,
        use_instance_mask: bool = False,
        use_keypoint: bool = False,
        instance_mask_format: str = "polygon",
        keypoint_hflip_indices=None,
        precomputed_proposal_topk: int | None = None,
        recompute_boxes: bool = False,
    ):
        if use_keypoint or keypoint_hflip_indices is not None or precomputed_proposal_topk is not None:
            raise NotImplementedError("DatasetMapper: keypoints and precomputed proposals need the real detectron2")
        if recompute_boxes:
            assert use_instance_mask, "recompute_boxes takes the boxes from the masks: set use_instance_mask"
        self.is_train = is_train
        self.augmentations = T.AugmentationList(augmentations)
        self.image_format = image_format
        self.use_instance_mask = use_instance_mask
        self.instance_mask_format = instance_mask_format
        self.recompute_boxes = recompute_boxes
        logger.info("augmentations in %s: %s", "training" if is_train else "inference", list(augmentations))

    def __call__(self, dataset_dict: dict) -> dict:
        """The record plus "image" (uint8, C H W) and in training, if it has annotations, "instances".

        The argument is not changed.
        """
        dataset_dict = copy.deepcopy(dataset_dict)
        image = utils.read_image(dataset_dict["file_name"], format=self.image_format)
        utils.check_image_size(dataset_dict, image)
        aug_input = T.AugInput(image)
        transforms = self.augmentations(aug_input)
        image = aug_input.image
        channels_first = image[None] if image.ndim == 2 else image.transpose(2, 0, 1)
        dataset_dict["image"] = torch.from_numpy(np.array(channels_first))
        annotations = dataset_dict.pop("annotations", None)
        if self.is_train and annotations is not None:
            dataset_dict["instances"] = self._instances(annotations, transforms, image.shape[:2])
        return dataset_dict

    def _instances(self, annotations: list[dict], transforms: T.TransformList, image_hw: tuple[int, int]):
        unused = {"keypoints"} if self.use_instance_mask else {"keypoints", "segmentation"}
        transformed = [
            utils.transform_instance_annotations(
                {key: value for key, value in annotation.items() if key not in unused}, transforms, image_hw
            )
            for annotation in annotations
            if annotation.get("iscrowd", 0) == 0
        ]
        instances = utils.annotations_to_instances(transformed, image_hw, self.instance_mask_format)
        if self.recompute_boxes and instances.has("gt_masks"):
            instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
        return utils.filter_empty_instances(instances)
