"""What is exported? A detector with its weights, and everything that its file must say to be used without it."""

import importlib.metadata
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import LazyConfig
from omegaconf import DictConfig

from dinov2_detrex.config.loading import find_config, load
from dinov2_detrex.config.saving import settled, without_anchors
from dinov2_detrex.data.folders import IMAGE_SUFFIXES
from dinov2_detrex.data.shapes import draw_image
from dinov2_detrex.detector import DINO
from dinov2_detrex.inference.detections import DEFAULT_THRESHOLD
from dinov2_detrex.inference.exported import FORMAT
from dinov2_detrex.inference.predictor import Predictor
from dinov2_detrex.inference.runs import file_or_choice
from dinov2_detrex.runtime.errors import UserError
from dinov2_detrex.runtime.packages import EXAMPLES, is_package, read_facts

NUM_DRAWN = 3  # pictures to verify on where none are given


@dataclass(frozen=True)
class Source:
    """A detector that can be exported.

    Attributes:
        name: for people.
        predictor: the detector on the CPU, with its mapper and classes.
        mapper_yaml: the mapper as a package's config has it.
        thresholds: {"default": score, "by_class": {name: score}}.
        examples: pictures that came with it.
    """

    name: str
    predictor: Predictor
    mapper_yaml: str
    thresholds: dict[str, Any]
    examples: list[Path]

    @property
    def model(self) -> DINO:
        """The detector.

        Raises:
            UserError: it is none that can be exported.
        """
        model = self.predictor.model
        if not isinstance(model, DINO):
            raise UserError(f"{self.name} is a {type(model).__name__}; of the detectors DINO alone can be exported")
        return model


def open_source(source: str, overrides: Sequence[str] = (), weights: str = "") -> Source:
    """Load what is to be exported.

    Args:
        source: a run's folder, a model package, or with `weights` any config.
        overrides: of its config.
        weights: see `file_or_choice`; of a package its own.

    Raises:
        UserError: there is no such detector.
    """
    cfg = load(source, [*overrides, "train.device=cpu"])
    folder = find_config(source).parent
    if is_package(folder):
        facts = read_facts(folder)
        examples = sorted((folder / EXAMPLES).glob("*"))
        return Source(folder.resolve().name, Predictor(cfg, folder), mapper_yaml(cfg), facts["thresholds"], examples)
    trained = file_or_choice(find_config(source), weights)
    predictor = Predictor(cfg, trained.file, trained.averaged or None)
    thresholds = {"default": DEFAULT_THRESHOLD, "by_class": {}}
    return Source(trained.file.resolve().parent.name, predictor, mapper_yaml(cfg), thresholds, [])


def mapper_yaml(cfg: DictConfig) -> str:
    """The test mapper as plain YAML, its classes by name."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mapper.yaml"
        LazyConfig.save(settled(cfg).dataloader.test.mapper, str(path))
        return without_anchors(path.read_text(encoding="utf-8"))


def describe(source: Source, graph: dict[str, Any]) -> dict[str, Any]:
    """The metadata of an exported file.

    Args:
        source: what is exported.
        graph: "raw", "batch", "height", "width" (None where any), "multiple", "smallest", "largest", "dtype".
    """
    model, classes = source.model, source.predictor.classes
    return {
        "format": FORMAT,
        "name": source.name,
        "classes": [{"id": i, "name": name} for i, name in zip(classes.category_ids, classes.names)],
        "thresholds": source.thresholds,
        "input_format": model.input_format,
        "pixel_mean": model.pixel_mean.flatten().tolist(),
        "pixel_std": model.pixel_std.flatten().tolist(),
        "mapper": source.mapper_yaml,
        "graph": graph,
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Of what makes and writes a graph, as far as it is installed."""
    found = {}
    for name in ("dinov2_detrex", "torch", "timm", "onnx", "onnxscript", "onnxruntime", "openvino"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def pictures(source: Source, given: Sequence[str]) -> list[torch.Tensor]:
    """Images (3, h, w), uint8 RGB, as the detector's mapper leaves them.

    Args:
        source: whose mapper, and whose examples where nothing is given.
        given: files and folders of pictures; drawn ones where there are no examples either.

    Raises:
        UserError: a folder without pictures.
        OSError: a file cannot be read.
    """
    files = [path for place in given for path in picture_files(Path(place))] or source.examples
    if files:
        return [as_mapped(source, path) for path in files]
    with tempfile.TemporaryDirectory() as folder:
        drawn = []
        for seed in range(NUM_DRAWN):
            path = Path(folder) / f"{seed}.png"
            draw_image(np.random.default_rng(seed), 640)[0].save(path)
            drawn.append(as_mapped(source, path))
        return drawn


def picture_files(place: Path) -> list[Path]:
    """The pictures in a folder, or the file itself."""
    if not place.is_dir():
        return [place]
    found = sorted(path for path in place.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    if not found:
        raise UserError(f"{place} holds no pictures ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return found


def as_mapped(source: Source, path: Path) -> torch.Tensor:
    """(3, h, w), uint8, RGB: a picture as the detector's mapper leaves it."""
    image = source.predictor.mapper({"file_name": str(path)})["image"]
    return image.flip(0) if source.model.input_format == "BGR" else image


def to_json(metadata: dict[str, Any]) -> str:
    """The text that stands in the file."""
    return json.dumps(metadata, sort_keys=True)
