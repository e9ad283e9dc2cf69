"""Configs: where recipes lie, what their values may refer to, which options there are, and how all of it is loaded.

`recipes` finds them, `resolvers` does the arithmetic that they need, `train_options` and `schedule_options` say what
`train` and `schedule` hold (`schema`: how an option is declared and checked), `loading` makes one config of a file and
`overrides`, and `saving` writes it down.
"""

from dinov2_detrex.config.recipes import PACKAGE_DIR, get_config, recipes_dir
from dinov2_detrex.config.resolvers import (
    RESOLVERS,
    classes_in,
    half,
    images_in,
    iterations,
    native_img_size,
    num_blocks,
    pyramid_levels,
    pyramid_shapes,
    register_resolvers,
    scaled,
    share,
    short_sides,
    warmup_share,
)
from dinov2_detrex.config.schema import register_plain_yaml

__all__ = [
    "PACKAGE_DIR",
    "RESOLVERS",
    "classes_in",
    "get_config",
    "half",
    "images_in",
    "iterations",
    "native_img_size",
    "num_blocks",
    "pyramid_levels",
    "pyramid_shapes",
    "recipes_dir",
    "register_plain_yaml",
    "register_resolvers",
    "scaled",
    "share",
    "short_sides",
    "warmup_share",
]
