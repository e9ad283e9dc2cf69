"""Which implementation serves `detectron2` and `detrex`: the installed package, or the slice in `fallback/`.

The fallback folder goes to the END of `sys.path`, so an installed package always wins, each for itself, and nothing
is patched.

What the slice lacks is refused in one way, with the line of `missing_part_message`: importing it is an ImportError,
reading it from a module an AttributeError, calling it where a config may name it a NotImplementedError.
"""

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

ENGINE_PACKAGES = ("detectron2", "detrex")
FALLBACK_DIR = Path(__file__).parent / "fallback"

# what the slice takes from this project, all of it at first use: our packages import the slice in their turn
_OURS = {
    "COCOEvaluator": "dinov2_detrex.evaluation",
    "DetrDatasetMapper": "dinov2_detrex.data",
    "FFN": "dinov2_detrex.detector",
    "HungarianMatcher": "dinov2_detrex.detector",
    "MLP": "dinov2_detrex.detector",
    "MultiScaleDeformableAttention": "dinov2_detrex.detector",
    "MultiheadAttention": "dinov2_detrex.detector",
    "SimpleFeaturePyramid": "dinov2_detrex.backbone",
    "TimmBackbone": "dinov2_detrex.backbone",
    "box_cxcywh_to_xyxy": "dinov2_detrex.detector",
    "box_iou": "dinov2_detrex.detector",
    "box_xyxy_to_cxcywh": "dinov2_detrex.detector",
    "generalized_box_iou": "dinov2_detrex.detector",
    "get_sine_pos_embed": "dinov2_detrex.detector",
    "get_vit_lr_decay_rate": "dinov2_detrex.backbone",
    "inverse_sigmoid": "dinov2_detrex.detector",
    "recipes_dir": "dinov2_detrex.config",
}
_HINTS = {
    "detectron2.engine": "dinov2_detrex trains with tools/train_net.py",
    "detectron2.layers": "torch.nn and torchvision.ops have most of these",
    "detectron2.model_zoo": "dinov2_detrex.get_config and detrex.config.get_config load shared configs",
    "detectron2.modeling.backbone": "dinov2_detrex.TimmBackbone builds any timm model",
}


# Beginnings of what an installed detectron2 (by way of fvcore) or detrex warns of while it is imported: its own use of
# torch and timm, which nobody who runs a command can mend.
_IMPORT_WARNINGS = (
    r"`torch\.jit\.script` is deprecated",
    r"`torch\.cuda\.amp\.custom_[fb]wd",
    r"Importing from timm\.models\.layers is deprecated",
)


def enable_fallback() -> None:
    """Make the fallback importable behind everything that is installed; calling it again changes nothing."""
    if str(FALLBACK_DIR) not in sys.path:
        sys.path.append(str(FALLBACK_DIR))
    if _slice_finder not in sys.path_hooks:  # a spawned process inherits sys.path alone
        sys.path_hooks.insert(0, _slice_finder)
        sys.path_importer_cache.pop(str(FALLBACK_DIR), None)
        sys.meta_path.append(_MissingPartFinder())


def is_fallback(package: str) -> bool:
    """True where `package` ("detectron2" or "detrex") is served by the fallback, False where it is installed."""
    spec = importlib.util.find_spec(package)
    return spec is not None and spec.origin is not None and Path(spec.origin).is_relative_to(FALLBACK_DIR)


def silence_engines() -> None:
    """Leave out what installed engines warn of at their import, unless Python was told how to treat warnings."""
    if sys.warnoptions or all(map(is_fallback, ENGINE_PACKAGES)):
        return
    for message in _IMPORT_WARNINGS:
        warnings.filterwarnings("ignore", message, FutureWarning)


def missing_part_message(name: str) -> str:
    """The one line for a part of detectron2 or detrex, by its dotted name, that the fallback does not have."""
    package = name.partition(".")[0]
    hint = next((f" ({hint})" for prefix, hint in _HINTS.items() if f"{name}.".startswith(f"{prefix}.")), "")
    return (
        f"{name} is not in dinov2_detrex's slice of {package}; "
        f"the real {package} has it, and is used once installed{hint}"
    )


def ours(name: str) -> Any:
    """The part of dinov2_detrex that the slice uses or exports under this name."""
    return getattr(importlib.import_module(_OURS[name]), name)


def reexport(module_name: str, *names: str) -> Callable[[str], Any]:
    """A module `__getattr__` for the slice: `names` are dinov2_detrex's own, fetched at first use; others are refused.

    Args:
        module_name: the module's own name, e.g. "detrex.layers".
        names: what it exports of dinov2_detrex.
    """

    def __getattr__(name: str) -> Any:
        if name in names:
            return ours(name)
        if name.startswith("__") or _is_submodule(module_name, name):
            raise AttributeError(f"module {module_name!r} has no attribute {name!r}")
        raise AttributeError(missing_part_message(f"{module_name}.{name}"))

    return __getattr__


class NotProvided:
    """Base of the classes that a lazy config may name and overwrite, but that only the real package can build."""

    def __init__(self, *args, **kwargs):
        kind = type(self)
        raise NotImplementedError(missing_part_message(f"{kind.__module__}.{kind.__qualname__}"))


def _is_submodule(package: str, name: str) -> bool:
    path = vars(sys.modules[package]).get("__path__") or []
    return importlib.machinery.PathFinder.find_spec(f"{package}.{name}", path) is not None


class _MissingPartFinder(importlib.abc.MetaPathFinder):
    """Asked last, when nothing else found a module or, in `from package import name`, a name.

    It raises an ImportError that is no ModuleNotFoundError, because Python drops that one for such a name.
    """

    def find_spec(self, fullname, path=None, target=None):
        package = fullname.partition(".")[0]
        if fullname != package and package in ENGINE_PACKAGES and is_fallback(package):
            raise ImportError(missing_part_message(fullname), name=fullname)
        return None


class _SliceLoader(importlib.machinery.SourceFileLoader):
    """Loads a module of the slice, which then refuses what it lacks."""

    def exec_module(self, module) -> None:
        super().exec_module(module)
        vars(module).setdefault("__getattr__", reexport(module.__name__))
        vars(module).setdefault("__path__", [])  # of a package alone does Python ask the finders for a missing name


def _slice_finder(folder: str) -> importlib.machinery.FileFinder:
    """A path hook for the fallback's folders; the ImportError for others is how a hook declines."""
    if not Path(folder).is_relative_to(FALLBACK_DIR):
        raise ImportError(f"{folder} is not in {FALLBACK_DIR}", path=folder)
    return importlib.machinery.FileFinder(folder, (_SliceLoader, importlib.machinery.SOURCE_SUFFIXES))
