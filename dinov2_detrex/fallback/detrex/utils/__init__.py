"""detrex's helpers by their names."""

from detectron2.utils.comm import get_rank, get_world_size

from dinov2_detrex.engine import reexport

__all__ = ["get_rank", "get_world_size", "inverse_sigmoid"]
__getattr__ = reexport(__name__, "inverse_sigmoid")
