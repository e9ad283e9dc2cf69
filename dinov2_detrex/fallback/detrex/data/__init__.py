"""detrex's dataset mapper by its name; it is dinov2_detrex's own."""

from dinov2_detrex.engine import reexport

__getattr__ = reexport(__name__, "DetrDatasetMapper")
