"""What does a trained detector see in a picture? The run's config and a checkpoint are all that is needed.

    predictor = Predictor(cfg, "output/mine/model_best.pth")
    predictor("photo.jpg", score_threshold=0.5)

Class names and category ids are those of the training data, which the checkpoint carries: the data may be gone.
"""

import os
from dataclasses import dataclass

import torch
from detectron2.config import instantiate
from detectron2.structures import BoxMode

from dinov2_detrex.config.classes import class_count
from dinov2_detrex.config.loading import load, train_options
from dinov2_detrex.config.pretrained import without_pretrained
from dinov2_detrex.inference.hub import find_package
from dinov2_detrex.runtime.devices import choose_device
from dinov2_detrex.runtime.errors import UserError, building
from dinov2_detrex.training.weights import load_all


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


class Predictor:
    """A detector with its weights and class names, ready for pictures.

    Args:
        cfg: of the run: `model`, `dataloader.test.mapper` and `train.device` count. Its data are not looked at.
        checkpoint_path: weights for exactly this model, in any file that `--eval-only` reads, or a model package.
        averaged: take its averaged weights; None does what `train.model_ema.use_ema_weights_for_eval_only` says.

    Raises:
        UserError: the file cannot be read or is of another model, or the model cannot be built.
    """

    def __init__(self, cfg, checkpoint_path: str | os.PathLike, averaged: bool | None = None):
        if averaged is None:
            averaged = train_options(cfg).model_ema.use_ema_weights_for_eval_only
        self.device = choose_device(cfg.train.device)
        cfg = without_pretrained(cfg)  # they come from the checkpoint
        with building("model"):
            model = instantiate(cfg.model)
        content = load_all(model, os.fspath(checkpoint_path), averaged)
        self.classes = classes_of_checkpoint(content, class_count(cfg.model).number)
        self.model = model.to(self.device).eval()
        self.mapper = instantiate(cfg.dataloader.test.mapper)

    @classmethod
    def from_pretrained(cls, package: str | os.PathLike, revision: str | None = None) -> "Predictor":
        """The predictor of a model package; nothing in the package is executed.

        Args:
            package: its folder, or its id on the Hugging Face Hub, "owner/name".
            revision: of the Hub's: a branch, tag or commit.

        Raises:
            UserError: there is no such package, it is damaged, or its config names something that may not be called.
        """
        folder = find_package(package, revision)
        return cls(load(str(folder), []), folder)

    @torch.inference_mode()
    def __call__(self, file_name: str | os.PathLike, score_threshold: float = 0.3) -> list[dict]:
        """Detections in a picture, the best first.

        Returns:
            COCO results with names: "category_id" of the training data, "category_name", "score", and "bbox" XYWH in
            pixels of the picture, upright.

        Raises:
            OSError: the picture cannot be read; names the file.
        """
        instances = self.model([self.mapper({"file_name": os.fspath(file_name)})])[0]["instances"].to("cpu")
        instances = instances[instances.scores >= score_threshold]
        boxes_xywh = BoxMode.convert(instances.pred_boxes.tensor, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)
        order = instances.scores.argsort(descending=True).tolist()
        return [
            {
                "category_id": self.classes.category_ids[int(instances.pred_classes[i])],
                "category_name": self.classes.names[int(instances.pred_classes[i])],
                "score": float(instances.scores[i]),
                "bbox": boxes_xywh[i].tolist(),
            }
            for i in order
        ]
