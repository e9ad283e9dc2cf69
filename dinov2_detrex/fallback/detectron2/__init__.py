"""The slice of detectron2's API that this project and its users' recipes import; an installed one wins."""

__version__ = "0.6+dinov2_detrex"
