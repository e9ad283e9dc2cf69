"""What comes after training: answers to pictures and videos, with the checkpoint's class names, and packages."""

from dinov2_detrex.inference.classes import Classes, classes_of_checkpoint
from dinov2_detrex.inference.detections import Detections, Selection
from dinov2_detrex.inference.hub import push_to_hub
from dinov2_detrex.inference.predictor import Predictor

__all__ = ["Classes", "Detections", "Predictor", "Selection", "classes_of_checkpoint", "push_to_hub"]
