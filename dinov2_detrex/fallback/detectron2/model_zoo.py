"""Why is there no model zoo here? Its configs and weights belong to the real package, so importing it fails."""

raise ImportError(
    "detectron2.model_zoo is not in dinov2_detrex's slice of detectron2; the real detectron2 has it, "
    "and is used once installed (for shared configs: dinov2_detrex.get_config, detrex.config.get_config)"
)
