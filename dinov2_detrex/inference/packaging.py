"""How does a trained detector become a model package, a folder that can be handed on? See `runtime/packages.py` for
what is in one.

A package is written whole or not at all, and before it gets its name it is opened as its receiver will.
"""

import contextlib
import importlib.metadata
import json
import math
import platform
import secrets
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import instantiate
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import save_file

from dinov2_detrex.backbone.adapters import merged_state
from dinov2_detrex.config.classes import class_count
from dinov2_detrex.config.loading import load
from dinov2_detrex.config.pretrained import without_adapters, without_pretrained
from dinov2_detrex.config.saving import save_config, settled, with_calls_for_values
from dinov2_detrex.engine import ENGINE_PACKAGES, is_fallback
from dinov2_detrex.env import VERSIONED
from dinov2_detrex.inference.card import base_model_of, card_text
from dinov2_detrex.inference.classes import Classes, classes_of_checkpoint
from dinov2_detrex.inference.detections import DEFAULT_THRESHOLD
from dinov2_detrex.inference.predictor import Predictor
from dinov2_detrex.inference.runs import BEST, BEST_FILE, FINAL, Trained
from dinov2_detrex.runtime import files
from dinov2_detrex.runtime.errors import UserError, building
from dinov2_detrex.runtime.packages import (
    CARD,
    CONFIG,
    EXAMPLES,
    FACTS,
    FORMAT,
    REPORT,
    THRESHOLDS_FILE,
    WEIGHTS,
    read_checkpoint,
)
from dinov2_detrex.training.datasets import dataset_metadata, dataset_names
from dinov2_detrex.training.ema import ModelEMA
from dinov2_detrex.training.evaluation import EMA_PREFIX
from dinov2_detrex.training.progress import METRICS_FILE


def reported_thresholds(trained: Trained) -> dict[str, Any] | None:
    """The best thresholds of the report in the run's folder, if there is one and it is on these weights.

    Returns:
        what `make_package` takes; None for the usual thresholds.
    """
    path = trained.file.parent / REPORT / THRESHOLDS_FILE
    with contextlib.suppress(OSError, ValueError):  # none, or none that can be read
        content = json.loads(path.read_text(encoding="utf-8"))
        of_these = BEST if trained.file.name == BEST_FILE else FINAL
        if not trained.averaged and content["weights"] == of_these and "default" in content:
            return content
    return None


def make_package(
    cfg: DictConfig,
    trained: Trained,
    folder: Path,
    *,
    name: str = "",
    license: str | None = None,
    thresholds: dict[str, Any] | None = None,
    examples: Sequence[Path] = (),
) -> dict[str, Any]:
    """Write a model package.

    Args:
        cfg: the complete config of the weights.
        trained: which weights.
        folder: of the package; must not exist.
        name: of the detector, for its card; "" takes the folder's.
        license: of the weights; None takes that of the pretrained backbone, as far as timm knows it.
        thresholds: {"default": score, "by_class": {name: score}} in place of 0.3 for all.
        examples: pictures that go with it.

    Returns:
        the facts, see `read_facts`.

    Raises:
        UserError: the folder exists, the weights are not the model's, the config calls what a package may not name,
            or an argument is wrong.
    """
    content = read_checkpoint(trained.file)
    facts = _facts(cfg, trained, content, name or folder.resolve().name, thresholds or {})
    facts |= base_model_of(cfg.model, license)
    with _appearing(folder) as unfinished:
        files.write_json(unfinished / FACTS, facts, indent=1)
        save_file(_tensors(cfg, trained, content), unfinished / WEIGHTS, metadata={"format": "pt"})
        shutil.copymode(unfinished / FACTS, unfinished / WEIGHTS)  # safetensors lets only its owner read it
        save_config(with_calls_for_values(_portable(cfg)), unfinished / CONFIG)
        files.write_text(unfinished / CARD, card_text(facts))
        _copy_examples(examples, unfinished / EXAMPLES)
        Predictor(load(str(unfinished), ["train.device=cpu"]), unfinished)
    return facts


def _facts(
    cfg: DictConfig, trained: Trained, content: dict[str, Any], name: str, thresholds: dict[str, Any]
) -> dict[str, Any]:
    """What a package says of itself, but for what it is based on; see `read_facts`."""
    classes = _classes(content, cfg)
    return {
        "format": FORMAT,
        "name": name,
        "classes": [{"id": i, "name": name} for i, name in zip(classes.category_ids, classes.names)],
        "thresholds": _thresholds(thresholds, classes.names),
        "preprocessing": _preprocessing(cfg),
        "weights": _provenance(cfg, trained, content),
        "metrics": _metrics(trained.file.parent, content),
        "data": {part: dataset_names(cfg.dataloader.get(part)) for part in ("train", "test")},
        "versions": _versions(),
    }


@contextlib.contextmanager
def _appearing(folder: Path) -> Iterator[Path]:
    """A folder to fill, which gets its name when the block ends well; errors speak of that name."""
    if folder.exists():
        raise UserError(f"{folder} exists; give another folder with --out, or remove it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = folder.with_name(f".unfinished-{folder.name}-{secrets.token_hex(4)}")
    unfinished.mkdir()
    try:
        yield unfinished
        unfinished.rename(folder)
    except UserError as error:
        raise UserError(str(error).replace(str(unfinished), str(folder))) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


# ------------------------------------------------------------------------------------------------------- its parts


def _tensors(cfg: DictConfig, trained: Trained, content: dict) -> dict[str, torch.Tensor]:
    """The state dict, adapters merged, each tensor with memory of its own, as safetensors wants it."""
    state = merged_state(_average(cfg, trained, content) if trained.averaged else content["model"])
    return {name: torch.as_tensor(value).detach().contiguous().clone() for name, value in state.items()}


def _average(cfg: DictConfig, trained: Trained, content: dict) -> dict[str, torch.Tensor]:
    if "ema_state" not in content:
        raise UserError(f"{trained.file} holds no averaged weights (train.model_ema.enabled was off)")
    with building("model"):
        model = instantiate(without_pretrained(cfg).model)
        model.load_state_dict(content["model"])  # what the average leaves out
        average = ModelEMA(model)
        average.load_state_dict(content["ema_state"])
    return average.model_state_dict()


def _portable(cfg: DictConfig) -> DictConfig:
    """The config as another machine can use it: weights come from the package, output goes below ./output."""
    portable = without_adapters(settled(cfg, init_checkpoint="", device=None, output_dir="./output"))
    portable = without_pretrained(portable)
    evaluator = portable.dataloader.get("evaluator")
    if evaluator is not None and "output_dir" in evaluator:
        evaluator.output_dir = portable.train.output_dir
    return portable


def _classes(content: dict, cfg: DictConfig) -> Classes:
    """Those of the checkpoint; of the config's training data where it does not say; else numbers."""
    if not (content.get("metadata") or {}).get("thing_classes"):
        found = _classes_of_data(cfg)
        if len(found.get("thing_classes", ())) == class_count(cfg.model).number:
            content = {"metadata": found}
    return classes_of_checkpoint(content, class_count(cfg.model).number)


def _classes_of_data(cfg: DictConfig) -> dict[str, Any]:
    loader = cfg.dataloader.get("train")
    if loader is None or not dataset_names(loader):
        return {}
    if loader.dataset.get("json_file") is None:
        return dataset_metadata(loader)  # registered with its names, as COCO is
    from dinov2_detrex.data.source import class_names_by_id

    with contextlib.suppress(UserError):  # the data may be gone
        classes = class_names_by_id(loader.dataset.json_file)
        index_of = {category: index for index, category in enumerate(classes)}
        return {"thing_classes": list(classes.values()), "thing_dataset_id_to_contiguous_id": index_of}
    return {}


def _thresholds(given: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    by_class = given.get("by_class") or {}
    unknown = sorted(set(by_class) - set(names))
    if unknown:
        raise UserError(f"thresholds are given for {unknown[0]!r}, which is none of the classes {', '.join(names)}")
    default = given.get("default", DEFAULT_THRESHOLD)
    for score in (default, *by_class.values()):
        if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 1:
            raise UserError(f"a threshold is a number from 0 to 1, not {score!r}")
    return {"default": default, "by_class": by_class}


def _preprocessing(cfg: DictConfig) -> dict[str, Any]:
    """What an image goes through; the same stands in the config, which is what is used."""
    whole: Any = OmegaConf.to_container(settled(cfg))
    mapper = whole["dataloader"]["test"]["mapper"]
    steps = mapper.get("augmentation", mapper.get("augmentations")) or []
    of_model = {key: whole["model"].get(key) for key in ("input_format", "pixel_mean", "pixel_std")}
    return {"steps": [_as_text(step) for step in steps]} | of_model


def _as_text(step: Any) -> Any:
    if not isinstance(step, dict):
        return str(step)
    target = step.get("_target_")
    name = target if isinstance(target, str) else getattr(target, "__name__", str(target))
    arguments = ", ".join(f"{key}={value!r}" for key, value in step.items() if key != "_target_")
    return f"{name.rpartition('.')[2]}({arguments})"


def _provenance(cfg: DictConfig, trained: Trained, content: dict) -> dict[str, Any]:
    """Which weights these are; model_best.pth holds averaged ones where those were judged."""
    judged = cfg.train.best_checkpoint.metric or (f"{EMA_PREFIX}/" if cfg.train.model_ema.enabled else "")
    best_is_average = trained.file.name == BEST_FILE and judged.startswith(f"{EMA_PREFIX}/")
    return {
        "file": trained.file.name,
        "averaged": trained.averaged or best_is_average,
        "iteration": content.get("iteration"),
    }


def _metrics(run: Path, content: dict) -> dict[str, float | None]:
    """What the evaluation of these weights gave; {} where there was none."""
    results = content.get("results") or _logged_results(run / METRICS_FILE, content.get("iteration"))
    finite = {name: value if math.isfinite(value) else None for name, value in results.items()}
    return {name: value for name, value in finite.items() if "bbox/" in name}


def _logged_results(path: Path, iteration: int | None) -> dict[str, float]:
    """The line of metrics.json that holds the evaluation after an iteration (the last one is counted one further)."""
    if iteration is None or not path.is_file():
        return {}
    for line in reversed(path.read_text(encoding="utf-8").splitlines()):
        with contextlib.suppress(ValueError):  # a line that was cut off
            record = json.loads(line)
            if record.get("iteration") in (iteration, iteration + 1) and "bbox/AP" in record:
                return {name: math.nan if value is None else value for name, value in record.items()}
    return {}


def _versions() -> dict[str, str]:
    """Of what made the package, without any path."""
    found = {"python": platform.python_version()}
    for name in ("dinov2_detrex", *VERSIONED, *ENGINE_PACKAGES):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
        if name in ENGINE_PACKAGES and is_fallback(name):
            found[name] = "the slice in dinov2_detrex"
    return found


def _copy_examples(examples: Sequence[Path], folder: Path) -> None:
    for number, picture in enumerate(examples):
        if not picture.is_file():
            raise UserError(f"the example {picture} is no file")
        folder.mkdir(exist_ok=True)
        shutil.copyfile(picture, folder / f"{number:02d}_{picture.name}")
