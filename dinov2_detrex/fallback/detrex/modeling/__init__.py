"""detrex's model parts by their names; each is dinov2_detrex's own."""

from dinov2_detrex.engine import reexport

__getattr__ = reexport(
    __name__,
    {
        "ChannelMapper": "dinov2_detrex.detector",
        "HungarianMatcher": "dinov2_detrex.detector",
        "TimmBackbone": "dinov2_detrex.backbone",
    },
)
