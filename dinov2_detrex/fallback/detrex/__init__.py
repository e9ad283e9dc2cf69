"""The slice of detrex's API that dinov2_detrex and its users' recipes import; used where detrex is not installed."""

__version__ = "0.3.0+dinov2_detrex"
