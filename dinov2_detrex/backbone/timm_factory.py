"""How is a timm model built as a feature extractor, so that a failure says which model and what to do?"""

import difflib
from typing import Any

import timm
from timm.models import model_entrypoint, parse_model_name
from timm.models._features import FeatureGetterNet
from torch import nn

DYNAMIC_FAMILIES = ("timm.models.vision_transformer", "timm.models.eva", "timm.models.deit")


class NormedFeatureGetter(FeatureGetterNet):
    """timm's feature getter with the model's final norm kept and applied; the same state-dict names."""

    def __init__(self, model: nn.Module, out_indices=(-1,), **kwargs):
        super().__init__(model, out_indices=out_indices, norm=True, **kwargs)


def architecture(model_name: str) -> str:
    """The registry name in `model_name`: without a source ("hf-hub:timm/") and without a weights tag (".lvd142m")."""
    _, model_id = parse_model_name(model_name)
    return model_id.rstrip("/").rsplit("/", 1)[-1].partition(".")[0]


def takes_dynamic_size(model_name: str) -> bool:
    """True for the timm families whose models take `dynamic_img_size`: plain ViTs, EVA and DINOv3, DeiT."""
    name = architecture(model_name)
    return timm.is_model(name) and model_entrypoint(name).__module__ in DYNAMIC_FAMILIES


def default_indices(model_name: str) -> tuple[int, ...]:
    """The last block of a plain ViT, the first four stages of anything else."""
    return (-1,) if takes_dynamic_size(model_name) else (0, 1, 2, 3)


def build_features(model_name: str, norm: bool = False, **options: Any) -> nn.Module:
    """`timm.create_model(model_name, features_only=True, **options)`.

    Args:
        model_name: any name that timm takes.
        norm: keep and apply the final norm (plain ViTs only).
        options: keywords of timm; those that are None are left out.

    Raises:
        RuntimeError: timm cannot build it; names the model and, for an unknown name, near ones. The cause is chained.
        ValueError, AttributeError: as detrex has it, where the cause is about `norm_layer` or `feature_info`.
    """
    if takes_dynamic_size(model_name):
        options = {"dynamic_img_size": True, **options}
    if norm:
        options["feature_cls"] = NormedFeatureGetter
    try:
        return timm.create_model(model_name, features_only=True, **options)
    except Exception as error:
        raise _explain(model_name, error) from error


def near_names(model_name: str) -> list[str]:
    """Up to five names that timm knows and that look like `model_name`, with tags where it has one."""
    known = timm.list_models(pretrained=True) if "." in model_name else timm.list_models()
    return difflib.get_close_matches(model_name, known, n=5)


def _explain(model_name: str, error: Exception) -> Exception:
    text = str(error)
    kind = ValueError if "norm_layer" in text else AttributeError if "feature_info" in text else RuntimeError
    message = f"timm cannot build {model_name!r} as a feature extractor: {type(error).__name__}: {text}"
    if "Unknown model" in text or "Invalid pretrained tag" in text:
        message += f"; near names: {', '.join(near_names(model_name)) or 'none'}"
    return kind(message)
