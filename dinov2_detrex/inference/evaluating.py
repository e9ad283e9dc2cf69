"""What changes in a run's config, or a package's, make `--eval-only` evaluate it as it lies there, on any data?"""

from pathlib import Path
from typing import Any

from detectron2.data import build_detection_test_loader
from detectron2.evaluation import inference_on_dataset, print_csv_format
from detectron2.utils.logger import setup_logger
from omegaconf import DictConfig, OmegaConf
from torch import nn

from dinov2_detrex.config.classes import class_count
from dinov2_detrex.config.loading import find_config, load
from dinov2_detrex.config.overrides import known_keys
from dinov2_detrex.data import coco_dataset_dicts
from dinov2_detrex.data.folders import VALIDATION
from dinov2_detrex.data.parts import part_of
from dinov2_detrex.data.source import class_names_by_id, is_there, split_path
from dinov2_detrex.evaluation import COCOEvaluator
from dinov2_detrex.inference.classes import classes_of_checkpoint
from dinov2_detrex.inference.exported import open_exported
from dinov2_detrex.inference.runs import AVERAGED, file_or_choice
from dinov2_detrex.runtime.errors import UsageError, UserError
from dinov2_detrex.runtime.packages import is_package, read_checkpoint


def evaluation_overrides(
    config: str, overrides: list[str], output_dir: str, weights: str = "", data: str | None = None, images=None
) -> list[str]:
    """Overrides for an evaluation.

    Args:
        config: a run's folder or config.yaml, a model package, or with `weights` any config.
        overrides: of the user; they come before these.
        output_dir: where the evaluation writes.
        weights: see `choose_weights`; of a package its own.
        data: what to evaluate on, in place of the config's test data: `FOLDER`, `FOLDER#part` or a COCO JSON.
        images: the folder of a JSON's images.

    Raises:
        UserError: there are no such weights or data, or the data have other classes than the weights.
    """
    cfg = load(config, overrides)
    checkpoint = _checkpoint(find_config(config), weights)
    found = _without_pretrained(cfg)
    found += [f"train.init_checkpoint={quoted(checkpoint)}", f"train.output_dir={quoted(output_dir)}"]
    if cfg.dataloader.get("evaluator") is not None:
        found.append(f"++dataloader.evaluator.output_dir={quoted(output_dir)}")
    if data is None:
        return found
    path = _with_part(data)
    _require_classes(path, checkpoint, cfg)
    return found + _data_overrides(cfg, path, images)


def evaluate_exported(path: str, data: str | None, images: str | None, output_dir: str) -> dict[str, Any]:
    """Evaluate an exported file; the results as COCO's evaluator gives them.

    Args:
        path: of the file.
        data, images: see `evaluation_overrides`.
        output_dir: where the evaluation writes.

    Raises:
        UserError: there are no such data, or they have other classes than the file.
    """
    if data is None:
        raise UsageError(f"{path} does not know its data; name them with --data PATH")
    setup_logger(output_dir)
    exported = open_exported(path)
    return average_precision(exported.model, exported.mapper, exported.class_names, data, images, output_dir)


def average_precision(
    model: nn.Module, mapper: Any, class_names: list[str], data: str, images: str | None = None, output_dir: str = ""
) -> dict[str, Any]:
    """Box AP of a detector by COCO's evaluator, e.g. {"bbox": {"AP": 41.2, ...}}.

    Args:
        model: from detectron2's records to its results, in evaluation mode.
        mapper: from a record of the data to one for the model.
        class_names: by the model's index.
        data, images: see `evaluation_overrides`.
        output_dir: where the evaluation writes; "" for nowhere.
    """
    path = _with_part(data)
    of_data = list(class_names_by_id(path).values())
    if of_data != class_names:
        raise UserError(f"{path} has the classes {', '.join(of_data)}, the detector {', '.join(class_names)}")
    name = f"evaluated_{Path(split_path(path)[0]).stem}"
    records = coco_dataset_dicts(name, path, images, filter_empty=False, check=True)
    loader = build_detection_test_loader(dataset=records, mapper=mapper, num_workers=0)
    results = inference_on_dataset(model, loader, COCOEvaluator(name, output_dir=output_dir or None))
    print_csv_format(results)
    return dict(results)


def _without_pretrained(cfg: DictConfig) -> list[str]:
    """Overrides by which the model loads no weights of its own, since it gets a checkpoint's: no download."""
    loading = {"pretrained": "false", "checkpoint_path": "''"}
    keys = {key: loading.get(key.rpartition(".")[2]) for key in known_keys(cfg.model, "model.")}
    return [f"{key}={value}" for key, value in keys.items() if value and OmegaConf.select(cfg, key)]


def quoted(value: object) -> str:
    """The text of a value as Hydra's grammar takes it, whatever is in it."""
    text = str(value).replace("'", "\\'")
    return f"'{text}'"


def _checkpoint(config_file: Path, choice: str) -> Path:
    if is_package(config_file.parent):
        if choice:
            raise UsageError(f"{config_file.parent} is a model package and has its own weights; leave out --weights")
        return config_file.parent
    if choice == AVERAGED:
        raise UsageError("for averaged weights: --weights final train.model_ema.use_ema_weights_for_eval_only=true")
    return file_or_choice(config_file, choice).file


def _with_part(data: str) -> str:
    """A folder without a `#part` means its validation part, where it has parts."""
    if not is_there(data):
        raise UserError(f"--data {data} is not there")
    location, part = split_path(data)
    return str(part_of(data, *VALIDATION)) if part is None and Path(location).is_dir() else data


def _require_classes(path: str, checkpoint: Path, cfg: DictConfig) -> None:
    """Numbers are of use only where index i means the same class in both."""
    of_data = list(class_names_by_id(path).values())
    content = read_checkpoint(checkpoint, memory_map=True)
    of_weights = classes_of_checkpoint(content, class_count(cfg.model).number).names
    if (content.get("metadata") or {}).get("thing_classes") and of_data != of_weights:
        raise UserError(
            f"{path} has the classes {', '.join(of_data)}, but {checkpoint} was trained on {', '.join(of_weights)}"
        )


def _data_overrides(cfg: DictConfig, path: str, images: str | None) -> list[str]:
    name = f"evaluated_{Path(split_path(path)[0]).stem}"
    dataset = {"names": name, "json_file": path, "image_root": images}
    given = [f"{key}: {'null' if value is None else quoted(value)}" for key, value in dataset.items()]
    target = "_target_: dinov2_detrex.data.coco_dataset_dicts"
    found = [
        "~dataloader.test.dataset",
        f"+dataloader.test.dataset={{{target}, {', '.join(given)}, filter_empty: false, check: true}}",
    ]
    if cfg.dataloader.get("evaluator") is not None:
        found.append(f"++dataloader.evaluator.dataset_name={quoted(name)}")
    return found
