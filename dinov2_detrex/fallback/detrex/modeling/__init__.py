"""detrex's model parts by their names. Backbone and matcher are dinov2_detrex's own."""

from detrex.modeling.neck import ChannelMapper

from dinov2_detrex.engine import reexport

__all__ = ["ChannelMapper", "HungarianMatcher", "TimmBackbone"]
__getattr__ = reexport(__name__, "HungarianMatcher", "TimmBackbone")
