"""What does a trained detector see in pictures? A run's folder, a model package, or a config with weights is enough.

    predictor = Predictor.from_run("output/mine")
    found = predictor("photo.jpg", score_threshold=0.5)       # Detections
    for found in predictor.stream("photos/*.jpg"):            # any number, in batches, read beside the model

Class names and category ids are those of the training data, which the checkpoint carries: the data may be gone.
"""

import logging
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from detectron2.config import instantiate
from detectron2.structures import Instances
from PIL import Image

from dinov2_detrex.backbone.adapters import merge_adapters
from dinov2_detrex.config.classes import class_count
from dinov2_detrex.config.loading import load, train_options
from dinov2_detrex.config.pretrained import without_pretrained
from dinov2_detrex.data.image_reading import pixels_of
from dinov2_detrex.detector.by_shape import detect_by_shape
from dinov2_detrex.inference.casting import cast_weights
from dinov2_detrex.inference.classes import Classes, classes_of_checkpoint
from dinov2_detrex.inference.detections import DEFAULT_SELECTION, DEFAULT_THRESHOLD, Detections, Selection
from dinov2_detrex.inference.exported import is_exported, open_exported
from dinov2_detrex.inference.hub import find_package
from dinov2_detrex.inference.pictures import Picture, Pictures, is_single, pictures_of
from dinov2_detrex.inference.pipeline import Input, Job, answered
from dinov2_detrex.inference.runs import choose_weights
from dinov2_detrex.inference.tiles import Tiling, Window, merged
from dinov2_detrex.runtime.compiling import compile_parts
from dinov2_detrex.runtime.devices import choose_device, emulates_bfloat16
from dinov2_detrex.runtime.errors import UsageError, UserError, building
from dinov2_detrex.runtime.packages import is_package, read_facts
from dinov2_detrex.training.precision import EMULATION, has_bfloat16
from dinov2_detrex.training.weights import load_all, load_content

logger = logging.getLogger(__name__)

DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
PACKAGE = "package"
GPU_BATCH = 8
WINDOW_BATCHES = 4  # pictures that are looked through for those of one shape
MAX_THREADS = 4

Weights = str | os.PathLike | Mapping[str, Any]


@dataclass(frozen=True)
class Answer:
    """What became of one picture: detections, or the error that kept it from being read."""

    picture: Picture
    detections: Detections | None
    error: Exception | None = None


class Predictor:
    """A detector with its weights and class names, ready for pictures.

    Args:
        cfg: of the run: `model`, `dataloader.test.mapper` and `train.device` count. Its data are not looked at. The
            name of an exported file (.onnx, .xml, .pt2) stands for all of it, weights included.
        weights: for exactly this model: any file that `--eval-only` reads, a model package, a state dict, or the
            content of a checkpoint.
        averaged: take its averaged weights; None does what `train.model_ema.use_ema_weights_for_eval_only` says.
        device: "cuda", "cuda:1", "mps", "cpu"; None takes `train.device`.
        dtype: "fp32", as `--eval-only` computes; "bf16" or "fp16" for autocast; "auto" for bf16 where the device has
            it in hardware, else fp32.
        compile: compile backbone and neck, which pays after some hundred pictures of few shapes.
        batch_size: pictures that go into the model together; None for 8 on a GPU, 1 on a CPU.

    Attributes:
        classes: names and category ids, by the detector's own index.
        recommended: the `Selection` of a model package; None of other weights.

    Raises:
        UserError: the file cannot be read or is of another model, or the model cannot be built, or not compiled here.
    """

    def __init__(
        self,
        cfg,
        weights: Weights = "",
        averaged: bool | None = None,
        *,
        device: str | None = None,
        dtype: str = "fp32",
        compile: bool = False,
        batch_size: int | None = None,
    ):
        if is_exported(cfg):
            self._open(cfg, device, dtype, batch_size)
            return
        self.device = choose_device(device, option="device") if device else choose_device(cfg.train.device)
        self.dtype = choose_autocast(dtype, self.device)
        self.batch_size = _checked_batch_size(batch_size, self.device)
        cfg = without_pretrained(cfg)  # they come from the checkpoint
        with building("model"):
            model = instantiate(cfg.model)
        content = _load(model, weights, _averaged(cfg, weights) if averaged is None else averaged)
        self.classes = classes_of_checkpoint(content, class_count(cfg.model).number)
        self.recommended = _recommended(weights)
        self.model = merge_adapters(model).to(self.device).eval()
        if self.dtype is not None:
            cast_weights(self.model, self.dtype)
        self.mapper = instantiate(cfg.dataloader.test.mapper)
        if compile:
            compile_parts(self.model, self.device, "compile=True")

    def _open(self, file: str | os.PathLike, device: str | None, dtype: str, batch_size: int | None) -> None:
        """Take an exported file in the model's place."""
        if device not in (None, "cpu") or dtype not in ("fp32", "auto"):
            raise UsageError(
                f"device={device}, dtype={dtype}: {os.fspath(file)} runs on the CPU, in the precision of its export"
            )
        exported = open_exported(file)
        self.device, self.dtype = torch.device("cpu"), None
        self.batch_size = _checked_batch_size(batch_size, self.device)
        self.classes = Classes(exported.class_names, exported.category_ids)
        self.recommended = _selection(exported.thresholds, file)
        self.model, self.mapper = exported.model, exported.mapper

    @classmethod
    def from_run(cls, run: str | os.PathLike, weights: str = "", **options) -> "Predictor":
        """The predictor of a run's folder, with its config.yaml.

        Args:
            run: the folder.
            weights: "best" (model_best.pth), "final" (the newest), "averaged" (the newest one's average) or a file;
                "" for the best, and the newest where none was judged.
            options: as of the class.

        Raises:
            UserError: there is no such run, or it has no such weights.
        """
        trained = choose_weights(Path(run), weights)
        return cls(load(os.fspath(run), []), trained.file, **{"averaged": trained.averaged or None, **options})

    @classmethod
    def from_pretrained(cls, package: str | os.PathLike, revision: str | None = None, **options) -> "Predictor":
        """The predictor of a model package; nothing in the package is executed.

        Args:
            package: its folder, or its id on the Hugging Face Hub, "owner/name".
            revision: of the Hub's: a branch, tag or commit.
            options: as of the class.

        Raises:
            UserError: there is no such package, it is damaged, or its config names something that may not be called.
        """
        folder = find_package(package, revision)
        return cls(load(str(folder), []), folder, **options)

    @classmethod
    def open(cls, detector: str | os.PathLike, weights: str = "", **options) -> "Predictor":
        """The predictor of whatever holds a whole detector.

        Args:
            detector: a run's folder, a model package or its id on the Hugging Face Hub, or an exported file.
            weights: of a run, see `from_run`.
            options: as of the class.

        Raises:
            UserError: there is none, or weights are asked for of what is no run.
        """
        if os.path.isdir(detector) and not is_package(detector):
            return cls.from_run(detector, weights, **options)
        if weights:
            raise UsageError(f"{weights=}: {os.fspath(detector)} is no run's folder, it has its own weights alone")
        return cls(detector, **options) if is_exported(detector) else cls.from_pretrained(detector, **options)

    def __call__(
        self,
        pictures: Pictures,
        score_threshold: float | None = None,
        *,
        selection: Selection | Literal["package"] | None = None,
        tile: int | None = None,
        overlap: float = 0.2,
    ) -> Any:
        """Detections in a picture, or a list of such for several.

        Args:
            pictures: a path, image, array or tensor, or several, see `inference.pictures`.
            score_threshold: the lowest score of a detection; 0.3 unless it or `selection` says otherwise.
            selection: more of what is wanted; "package" takes the thresholds of the model package.
            tile: side of the tiles in pixels in which pictures are looked at, see `inference.tiles`; None for none.
            overlap: of tiles, as a share of their side.

        Returns:
            `Detections`, the best first, with boxes in pixels of the upright picture; for a folder, a pattern, or
            anything that holds several pictures, a list of these in order.

        Raises:
            OSError: a picture cannot be read; names the file.
            UserError: a value is no picture, or an argument is wrong.
        """
        found = list(self.stream(pictures, score_threshold, selection=selection, tile=tile, overlap=overlap))
        return found[0] if is_single(pictures) else found

    def stream(
        self,
        pictures: Pictures,
        score_threshold: float | None = None,
        *,
        selection: Selection | Literal["package"] | None = None,
        tile: int | None = None,
        overlap: float = 0.2,
        skip_unreadable: bool = False,
    ) -> Iterator[Detections]:
        """Detections picture by picture, in order, as they are found; pictures are read as they are needed.

        Args:
            pictures, score_threshold, selection, tile, overlap: as of a call.
            skip_unreadable: leave out what cannot be read, with a line in the log.
        """
        chosen = self.selection(score_threshold, selection)
        for answer in self.answers(pictures, chosen, None if tile is None else Tiling(tile, overlap)):
            if answer.detections is not None:
                yield answer.detections
            elif skip_unreadable:
                logger.warning("left out: %s", answer.error)
            elif answer.error is not None:
                raise answer.error

    def answers(
        self, pictures: Pictures, selection: Selection = DEFAULT_SELECTION, tiling: Tiling | None = None
    ) -> Iterator[Answer]:
        """What became of each picture, in order, also of those that cannot be read.

        Raises:
            UserError: at once, where the selection names a class that is none; later, where there are no pictures.
        """
        selection.thresholds(self.classes.names)
        batches = 1 if tiling or self.batch_size == 1 else WINDOW_BATCHES
        jobs = answered(
            pictures_of(pictures),
            lambda picture: self._prepared(picture, tiling),
            self.detect,
            self.batch_size,
            window=1 if batches == 1 else batches * self.batch_size,
            num_threads=min(MAX_THREADS, os.cpu_count() or 1),
        )
        return (self._answer(job, selection) for job in jobs)

    def selection(
        self, score_threshold: float | None = None, selection: Selection | Literal["package"] | None = None
    ) -> Selection:
        """What a call's two arguments mean together.

        Raises:
            UserError: the thresholds of a package are asked for, and there is none.
        """
        if selection == PACKAGE and self.recommended is None:
            raise UserError("only a model package has thresholds of its own; give them, or make a package of the run")
        chosen = self.recommended if selection == PACKAGE else selection
        chosen = cast(Selection, chosen or DEFAULT_SELECTION)
        return chosen if score_threshold is None else chosen.with_threshold(score_threshold)

    # ------------------------------------------------------------------------------------------ from picture to answer

    def _prepared(self, picture: Picture, tiling: Tiling | None) -> Job:
        try:
            image = picture.read()
            windows = tiling.windows((image.height, image.width)) if tiling else [(0, 0, *image.size)]
            inputs = [self._input(picture, image, window) for window in windows]
        except (OSError, ValueError, UserError) as error:
            return Job(picture, error=error)
        return Job(Cut(picture, windows, (image.height, image.width)), inputs)

    def _input(self, picture: Picture, image: Image.Image, window: Window) -> Input:
        """A window of a picture as the config's test mapper gives it; one of another's is handed a file."""
        whole = window == (0, 0, *image.size)
        part = image if whole else image.crop(window)
        if hasattr(self.mapper, "map_pixels"):
            return self.mapper.map_pixels({"file_name": picture.name}, pixels_of(part, self.mapper.img_format))
        if whole and picture.path is not None:
            return self.mapper({"file_name": picture.path, "height": image.height, "width": image.width})
        with tempfile.TemporaryDirectory() as folder:
            part.save(os.path.join(folder, "picture.png"))
            return self.mapper({"file_name": os.path.join(folder, "picture.png")})

    @torch.inference_mode()
    def detect(self, inputs: list[Input]) -> list[Instances]:
        """The `Instances` of every record of the mapper; on the CPU, with scores and boxes in float32.

        Records of several shapes go into the model shape by shape, so that none changes another's answer.
        """
        autocast = nullcontext() if self.dtype is None else torch.autocast(self.device.type, dtype=self.dtype)
        with autocast:
            outputs = detect_by_shape(self.model, inputs)
        return [_at_home(output["instances"]) for output in outputs]

    def _answer(self, job: Job, selection: Selection) -> Answer:
        if job.error is not None:
            return Answer(job.picture, None, job.error)
        cut: Cut = job.picture
        parts = [selection.of(found, self.classes.names) for found in job.outputs]
        found = merged(parts, cut.windows, cut.image_hw)[: selection.top_k]
        return Answer(cut.picture, Detections(found, self.classes, cut.picture.name))


@dataclass(frozen=True)
class Cut:
    """A picture and the windows in which it is looked at; `image_hw` is its (height, width), upright."""

    picture: Picture
    windows: list[Window]
    image_hw: tuple[int, int]


def choose_autocast(dtype: str, device: torch.device) -> torch.dtype | None:
    """The dtype of autocast that "fp32", "bf16", "fp16" or "auto" asks for; None for none.

    bf16 on a processor that only emulates it is one warning.

    Raises:
        UsageError: `dtype` is none of the four.
    """
    if dtype == "auto":
        in_hardware = device.type in ("cuda", "cpu") and has_bfloat16(device) and not emulates_bfloat16(device)
        return torch.bfloat16 if in_hardware else None
    if dtype not in DTYPES:
        raise UsageError(f"dtype={dtype!r} is none of {', '.join(DTYPES)} and auto")
    if dtype == "bf16" and emulates_bfloat16(device):
        logger.warning("%s; dtype fp32 is faster", EMULATION)
    return DTYPES[dtype]


def _checked_batch_size(batch_size: int | None, device: torch.device) -> int:
    if batch_size is None:
        return 1 if device.type == "cpu" else GPU_BATCH
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise UsageError(f"batch_size={batch_size!r} must be a whole number of at least 1")
    return batch_size


def _load(model: torch.nn.Module, weights: Weights, averaged: bool) -> dict[str, Any]:
    if isinstance(weights, Mapping):
        return load_content(model, weights, averaged)
    return load_all(model, os.fspath(weights), averaged)


def _averaged(cfg, weights: Weights) -> bool:
    """What the config says of evaluations; a package has one kind of weights, chosen when it was made."""
    packaged = not isinstance(weights, Mapping) and is_package(weights)
    return not packaged and train_options(cfg).model_ema.use_ema_weights_for_eval_only


def _recommended(weights: Weights) -> Selection | None:
    """The thresholds that a model package carries."""
    if isinstance(weights, Mapping) or not is_package(weights):
        return None
    return _selection(read_facts(weights).get("thresholds") or {}, weights)


def _selection(thresholds: Any, source: str | os.PathLike) -> Selection:
    """Of {"default": score, "by_class": {name: score}}; UserError naming the file where it is something else."""
    try:
        return Selection(thresholds.get("default", DEFAULT_THRESHOLD), thresholds.get("by_class") or {})
    except (UsageError, AttributeError, TypeError) as error:
        raise UserError(f"{os.fspath(source)} is damaged: its thresholds are {thresholds!r}") from error


def _at_home(instances: Instances) -> Instances:
    """On the CPU, scores and boxes in float32."""
    instances = instances.to("cpu")
    instances.scores = instances.scores.float()
    instances.pred_boxes.tensor = instances.pred_boxes.tensor.float()
    return instances
