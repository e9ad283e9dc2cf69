"""Configs as Python files whose objects are described now and built later."""

from ..left_out import refuse
from .instantiate import instantiate
from .lazy import LazyCall, LazyConfig

__all__ = ["LazyCall", "LazyConfig", "instantiate"]
__getattr__ = refuse(__name__, "CfgNode", "configurable", "get_cfg", "set_global_cfg", "upgrade_config")
