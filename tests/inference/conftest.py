"""A run as training leaves it behind, small and untrained, for all that predicts with it."""

from typing import NamedTuple

import pytest
import torch
from tiny_custom import scoring_detector

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
    cfg, model = scoring_detector()
    with torch.no_grad():
        list(model.bbox_embed[0].parameters())[-2].normal_(std=0.1)
    write_config(cfg, folder)
    metadata = {"thing_classes": NAMES, "thing_dataset_id_to_contiguous_id": {id_: i for i, id_ in enumerate(IDS)}}
    files.write(folder / "model_final.pth", {"model": model.state_dict(), "metadata": metadata, "iteration": 9})
    files.write_text(folder / "last_checkpoint", "model_final.pth")
    return TinyRun(model, folder, Predictor.from_run(folder))
