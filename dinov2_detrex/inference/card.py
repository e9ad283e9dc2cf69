"""What does a model package's README say, and whose weights is it made of? Text made of its facts alone."""

from typing import Any

import timm
from omegaconf import DictConfig

LIBRARY = "dinov2_detrex"
_SHOWN_CLASSES = 20
_HUB_LICENSES = ("apache-2.0", "bsd-3-clause", "cc-by-4.0", "cc-by-nc-4.0", "mit")  # others have a name of their own
_USE = """\
```python
from dinov2_detrex.inference import Predictor

predictor = Predictor.from_pretrained("{name}")  # this folder, or its id on the Hub
predictor("photo.jpg", score_threshold={threshold})
```

    dinov2-detrex predict {name} photo.jpg
    dinov2-detrex evaluate {name} --data my/data
    dinov2-detrex demo {name}
    dinov2-detrex train RECIPE train.init_checkpoint={name}
"""


def base_model_of(cfg_model: DictConfig, license: str | None) -> dict[str, str | None]:
    """Which pretrained backbone a model was trained on, and the licence of the weights.

    Args:
        cfg_model: of the training.
        license: as its owner says; None for the backbone's, which what is derived from it inherits.

    Returns:
        "base_model", a name of timm's, and "license"; None for what is not known.
    """
    net = (cfg_model.get("backbone") or {}).get("net") or {}
    name = net.get("model_name") if net.get("pretrained") or net.get("checkpoint_path") else None
    pretrained = timm.get_pretrained_cfg(name) if name and timm.is_model(name.partition(".")[0]) else None
    return {"base_model": name, "license": license or (pretrained and pretrained.license)}


def card_text(facts: dict[str, Any]) -> str:
    """The README of a package: the Hub's front matter, then what a reader asks first."""
    names = [entry["name"] for entry in facts["classes"]]
    shown = ", ".join(names[:_SHOWN_CLASSES]) + (f", ... ({len(names)})" if len(names) > _SHOWN_CLASSES else "")
    threshold = facts["thresholds"]["default"]
    parts = [
        f"---\n{_front_matter(facts)}\n---",
        f"# {facts['name']}",
        f"A DINO object detector, trained with {LIBRARY}. It finds: {shown}.",
        _USE.format(name=facts["name"], threshold=threshold),
        f"## Weights\n\n{_weights_in_words(facts)}",
        f"## Results\n\n{_table(facts['metrics']) or 'They were not evaluated.'}",
        f"## Preprocessing\n\n{_bullets(facts['preprocessing'])}",
        f"## Made with\n\n{_bullets(facts['versions'])}",
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _front_matter(facts: dict[str, Any]) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    license, base = facts["license"], facts["base_model"]
    known = license is None or license in _HUB_LICENSES
    data = ", ".join(facts["data"]["test"]) or "unnamed"
    results = [
        EvalResult("object-detection", data, data, name.removeprefix("bbox/"), value)
        for name, value in facts["metrics"].items()
        if value is not None and name in ("bbox/AP", "bbox/AP50", "bbox/AP75")
    ]
    return ModelCardData(
        license=license if known else "other",
        license_name=None if known else license,
        library_name=LIBRARY,
        pipeline_tag="object-detection",
        tags=["object-detection", "dino", "dinov2", "detectron2"],
        base_model=f"timm/{base}" if base else None,
        model_name=facts["name"],
        eval_results=results or None,
    ).to_yaml()


def _weights_in_words(facts: dict[str, Any]) -> str:
    weights = facts["weights"]
    kind = "the average of the weights" if weights["averaged"] else "the weights"
    iteration = weights["iteration"]
    after = "" if iteration is None else f" after iteration {iteration}"
    base = facts["base_model"]
    origin = f"Trained on the pretrained backbone {base}." if base else "No pretrained backbone is known."
    license = facts["license"] or "not known; ask its owner"
    return f"{kind.capitalize()} in {weights['file']}{after}. {origin} Licence: {license}."


def _table(metrics: dict[str, float | None]) -> str:
    if not metrics:
        return ""
    rows = [f"| {name} | {'-' if value is None else format(value, '.2f')} |" for name, value in sorted(metrics.items())]
    return "\n".join(["| metric | value |", "| --- | ---: |", *rows])


def _bullets(values: dict[str, Any]) -> str:
    lines = []
    for name, value in values.items():
        text = ", ".join(map(str, value)) or "none" if isinstance(value, list) else value
        lines.append(f"- {name}: {text}")
    return "\n".join(lines)
