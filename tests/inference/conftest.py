"""A run as training leaves it behind, small and untrained, for all that predicts with it."""

from typing import NamedTuple

import pytest
import torch
from detectron2.config import instantiate
from tiny_custom import CUSTOM_RECIPE, TINY_CUSTOM

from dinov2_detrex.config.loading import load
from dinov2_detrex.config.pretrained import without_pretrained
from dinov2_detrex.config.saving import write_config
from dinov2_detrex.inference import Predictor
from dinov2_detrex.runtime import files

NAMES, IDS = ["newt", "gnu", "owl"], [0, 7, 40]


class TinyRun(NamedTuple):
    model: torch.nn.Module
    folder: object
    predictor: Predictor


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory):
    """Its detector gives ten boxes of several classes and scores for every picture."""
    folder = tmp_path_factory.mktemp("run")
    cfg = load(CUSTOM_RECIPE, [*TINY_CUSTOM, "model.num_classes=3"])
    torch.manual_seed(0)
    model = instantiate(without_pretrained(cfg).model)
    with torch.no_grad():
        model.class_embed[0].weight.normal_()
        list(model.bbox_embed[0].parameters())[-2].normal_(std=0.1)
    write_config(cfg, folder)
    metadata = {"thing_classes": NAMES, "thing_dataset_id_to_contiguous_id": {id_: i for i, id_ in enumerate(IDS)}}
    files.write(folder / "model_final.pth", {"model": model.state_dict(), "metadata": metadata, "iteration": 9})
    files.write_text(folder / "last_checkpoint", "model_final.pth")
    return TinyRun(model, folder, Predictor.from_run(folder))
