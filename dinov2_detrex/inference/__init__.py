"""What comes after training: answers to images, with the class names that a checkpoint carries."""

from dinov2_detrex.inference.hub import push_to_hub
from dinov2_detrex.inference.predictor import Classes, Predictor, classes_of_checkpoint

__all__ = ["Classes", "Predictor", "classes_of_checkpoint", "push_to_hub"]
