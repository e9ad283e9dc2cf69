"""How is a timm model built as a feature extractor, so that a failure says which model and what to do?"""

import difflib
import functools
import inspect
from typing import Any

import timm
from timm.models import get_pretrained_cfg, model_entrypoint, parse_model_name
from timm.models._features import FeatureGetterNet
from torch import nn

from dinov2_detrex.backbone.vit_families import ViTFamily, family_registered_in


class NormedFeatureGetter(FeatureGetterNet):
    """timm's feature getter with the model's final norm kept and applied; the same state-dict names."""

    def __init__(self, model: nn.Module, out_indices: int | tuple[int, ...] = (-1,), **kwargs: Any):
        super().__init__(model, out_indices=out_indices, norm=True, **kwargs)


def architecture(model_name: str) -> str:
    """The registry name in `model_name`: without a source ("hf-hub:timm/") and without a weights tag (".lvd142m")."""
    _, model_id = parse_model_name(model_name)
    return model_id.rstrip("/").rsplit("/", 1)[-1].partition(".")[0]


def family_by_name(model_name: str) -> ViTFamily | None:
    """The family of plain ViTs that timm's module for this name registers; None for other or unknown models."""
    name = architecture(model_name)
    return family_registered_in(model_entrypoint(name).__module__) if timm.is_model(name) else None


def default_indices(model_name: str) -> tuple[int, ...]:
    """The last block of a plain ViT, the first four stages of anything else."""
    return (0, 1, 2, 3) if family_by_name(model_name) is None else (-1,)


def build_features(model_name: str, norm: bool = False, **options: Any) -> nn.Module:
    """`timm.create_model(model_name, features_only=True, **options)`.

    Args:
        model_name: any name that timm takes.
        norm: keep and apply the final norm (plain ViTs only).
        options: keywords of timm; those that are None are left out.

    Raises:
        RuntimeError: timm cannot build it; names the model and, for an unknown name, near ones. The cause is chained.
        ValueError, AttributeError: as detrex has it, for a `norm_layer` that the model does not take, and for a model
            without `feature_info`.
    """
    family = family_by_name(model_name)
    if family is not None:
        options = {**family.build_options, **options}
    if "norm_layer" in options:
        options["norm_layer"] = _placeable(options["norm_layer"])
    if norm:
        options["feature_cls"] = NormedFeatureGetter
    try:
        return timm.create_model(model_name, features_only=True, **options)
    except Exception as error:
        raise _explain(model_name, options, error) from error


def _placeable(norm_layer: Any) -> Any:
    """A norm class as timm calls it, with `device` and `dtype`; one that takes neither is moved once it is built."""
    if not inspect.isclass(norm_layer) or _takes(norm_layer, "device"):
        return norm_layer

    @functools.wraps(norm_layer, updated=())
    def build(*args: Any, device: Any = None, dtype: Any = None, **kwargs: Any) -> nn.Module:
        norm: nn.Module = norm_layer(*args, **kwargs)  # pyright: ignore[reportAssignmentType]
        return norm.to(device=device, dtype=dtype)

    return build


def _takes(kind: type, keyword: str) -> bool:
    parameters = inspect.signature(kind).parameters.values()
    return any(p.name == keyword or p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)


def near_names(model_name: str) -> list[str]:
    """Up to five names that timm knows and that look like `model_name`, with tags where it has one."""
    known = timm.list_models(pretrained=True) if "." in model_name else timm.list_models()
    return difflib.get_close_matches(model_name, known, n=5)


def knows(model_name: str) -> bool:
    """False where timm has no such architecture or, in a name with a tag, no such weights."""
    source, model_id = parse_model_name(model_name)
    if source or not timm.is_model(architecture(model_name)):
        return bool(source)  # what another source holds is not known here
    try:
        return "." not in model_id or get_pretrained_cfg(model_id) is not None
    except RuntimeError:
        return False


def _explain(model_name: str, options: dict[str, Any], error: Exception) -> Exception:
    message = f"timm cannot build {model_name!r} as a feature extractor: {type(error).__name__}: {error}"
    if not knows(model_name):
        return RuntimeError(f"{message}; near names: {', '.join(near_names(model_name)) or 'none'}")
    if isinstance(error, AttributeError) and error.name == "feature_info":
        return AttributeError(message)
    refuses_norm = isinstance(error, TypeError) and options.get("norm_layer") is not None
    return ValueError(message) if refuses_norm else RuntimeError(message)
