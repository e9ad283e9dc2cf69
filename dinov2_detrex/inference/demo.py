"""How is a detector tried in a browser? Drop a picture, see its objects, a table of them, and the backbone's features.

`Demo` answers and knows nothing of the page; `create_page` puts Gradio around it, without network and without counting
visits. What is no picture, or too large a one, is answered with a line.
"""

import contextlib
import logging
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from detectron2.modeling import Backbone
from PIL import Image
from torch import Tensor, nn

from dinov2_detrex.data.image_reading import UnreadableImage, open_upright, read_stored_hw
from dinov2_detrex.inference.detections import DEFAULT_SELECTION, Detections, Selection
from dinov2_detrex.inference.predictor import Predictor
from dinov2_detrex.runtime.errors import UserError, one_line
from dinov2_detrex.runtime.extras import needed
from dinov2_detrex.visualization.drawing import draw_objects
from dinov2_detrex.visualization.feature_colours import as_colours

logger = logging.getLogger(__name__)

SHOWN_PX = 1600  # long side of what is sent to the browser, at most
COLUMNS = ("class", "score", "x0", "y0", "x1", "y1")
WITHOUT_NETWORK = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}
FONTS = ["system-ui", "sans-serif"]  # of the browser
CACHE_S = (600, 3600)  # pictures that were shown are looked for so often, and deleted at that age, in seconds
SESSIONS = 100  # whose last picture is kept


@dataclass(frozen=True)
class Seen:
    """What a detector made of a picture, as it is kept between two looks at it.

    Attributes:
        image: upright RGB, with a long side of at most `SHOWN_PX`.
        detections: all of them, in pixels of the picture as it was given.
        features: of the backbone as colours, of the size of `image`; None where it cannot be looked into.
    """

    image: Image.Image
    detections: Detections
    features: Image.Image | None


@dataclass(frozen=True)
class Shown:
    """What the page shows of a picture: the line under it, and what was found, if anything could be.

    The drawing of a small picture is enlarged, and the features with it.
    """

    line: str
    drawing: Image.Image | None = None
    rows: Sequence[Sequence[Any]] = ()
    features: Image.Image | None = None


class Demo:
    """Answers to pictures, one after the other.

    Args:
        predictor: the detector.
        max_bytes: of a picture's file.
        max_pixels: of a picture, looked at before it is decoded.
    """

    def __init__(self, predictor: Predictor, max_bytes: int = 20_000_000, max_pixels: int = 50_000_000):
        self.predictor, self.max_bytes, self.max_pixels = predictor, max_bytes, max_pixels
        self.threshold = (predictor.recommended or DEFAULT_SELECTION).score_threshold
        self._one_at_a_time = Lock()  # what the backbone gives is overheard

    def look(self, path: str | os.PathLike) -> Seen:
        """Detections and features of a picture's file.

        Raises:
            UserError: it is no picture, or too large.
        """
        image = read_picture(path, self.max_bytes, self.max_pixels)
        with self._one_at_a_time, overheard(self.predictor.model) as heard:
            detections = self.predictor(image, score_threshold=0.0)
        shown = image.convert("RGB")
        shown.thumbnail((SHOWN_PX, SHOWN_PX))
        features = feature_picture(heard.image_map, shown.size) if heard.image_map is not None else None
        return Seen(shown, detections, features)

    def try_look(self, path: str | os.PathLike | None) -> Seen | str:
        """`look`, or the line that says why not; "" without a path."""
        if path is None:
            return ""
        try:
            return self.look(path)
        except UserError as error:
            return str(error)
        except Exception as error:  # one picture must not end the page
            logger.warning("%s: %s", Path(path).name, one_line(error))
            return f"the detector failed: {one_line(error)}"

    def show(self, seen: Seen | str, threshold: float, classes: Sequence[str] | None = None) -> Shown:
        """What is shown of a picture.

        Args:
            seen: of `try_look`.
            threshold: the lowest score of what is shown, 0..1.
            classes: names of the only classes that are; none for all.
        """
        if isinstance(seen, str):
            return Shown(seen)
        wanted = Selection(threshold, classes=classes or None)
        instances = wanted.of(seen.detections.instances, self.predictor.classes.names)
        found = Detections(instances, self.predictor.classes)
        height, width = found.image_hw
        line = f"{len(found)} of {len(seen.detections)} detections, in {width} x {height} pixels"
        drawing = _drawn(seen.image, found)
        features = seen.features and seen.features.resize(drawing.size, Image.Resampling.NEAREST)
        return Shown(line, drawing, _rows(found), features)


def read_picture(path: str | os.PathLike, max_bytes: int, max_pixels: int) -> Image.Image:
    """The upright 8-bit image of a file.

    Raises:
        UserError: it is no picture, or too large; names the file without its folder.
    """
    name = Path(path).name
    try:
        if os.path.getsize(path) > max_bytes:
            raise UserError(f"{name} has {os.path.getsize(path)} bytes, at most {max_bytes} are taken")
        num_pixels = math.prod(_stored_hw(path))
        if num_pixels > max_pixels:
            raise UserError(f"{name} has {num_pixels} pixels, at most {max_pixels} are taken")
        return open_upright(path)
    except UnreadableImage as error:
        raise UserError(str(error).replace(os.fspath(path), name)) from error


def _stored_hw(path: str | os.PathLike) -> tuple[int, int]:
    """Height and width by the header.

    Raises:
        UnreadableImage: there is none.
    """
    try:
        return read_stored_hw(path)
    except UnreadableImage:
        raise
    except Exception as error:  # damaged pictures fail in any way
        raise UnreadableImage(f"{os.fspath(path)} is no picture that can be read") from error


# -------------------------------------------------------------------------------------------------------- features


@dataclass
class Heard:
    """What passed through a detector.

    Attributes:
        input_hw: (height, width) of the last first image that it was given, without padding.
        image_map: the part of the backbone's last map (C, h, w) that lies over it.
    """

    input_hw: tuple[int, int] = (0, 0)
    image_map: Tensor | None = None


@contextlib.contextmanager
def overheard(model: nn.Module) -> Iterator[Heard]:
    """Listen to the innermost detectron2 `Backbone` of a detector, the ViT below its pyramid; to nothing without one.

    Args:
        model: takes detectron2's records, as `DINO.forward`.
    """
    heard = Heard()
    backbones = [module for module in model.modules() if isinstance(module, Backbone)]
    hooks = []
    if backbones:
        strides = {name: shape.stride for name, shape in backbones[-1].output_shape().items()}
        hooks.append(model.register_forward_pre_hook(lambda _, args: _hear_size(heard, args[0])))
        hooks.append(backbones[-1].register_forward_hook(lambda _, __, maps: _hear_map(heard, maps, strides)))
    try:
        yield heard
    finally:
        for hook in hooks:
            hook.remove()


def _hear_size(heard: Heard, records: Sequence[dict[str, Any]]) -> None:
    height, width = records[0]["image"].shape[-2:]
    heard.input_hw = (height, width)


def _hear_map(heard: Heard, maps: dict[str, Tensor], strides: dict[str, float | None]) -> None:
    name = list(strides)[-1]
    stride = strides[name] or 1
    rows, columns = (int(-(-side // stride)) for side in heard.input_hw)
    heard.image_map = maps[name][0, :, :rows, :columns].float().cpu()


def feature_picture(image_map: Tensor, size: tuple[int, int]) -> Image.Image:
    """A map (C, h, w) as colours, its cells as rectangles, in a picture of (width, height) `size`."""
    (colours,) = as_colours([image_map.permute(1, 2, 0)])  # C h w -> h w C
    return Image.fromarray((colours * 255).round().astype(np.uint8)).resize(size, Image.Resampling.NEAREST)


def _drawn(image: Image.Image, found: Detections) -> Image.Image:
    """The objects on the picture as it is shown, which may be smaller than that in which they were found."""
    height, width = found.image_hw
    boxes = found.boxes_xyxy * np.array([image.width / width, image.height / height] * 2)
    labels = [f"{name} {score:.2f}" for name, score in zip(found.class_names, found.scores)]
    masks = found.masks if (image.height, image.width) == (height, width) else None
    return draw_objects(image, boxes, found.class_indices.tolist(), labels, masks)


def _rows(found: Detections) -> list[list[Any]]:
    """A row of `COLUMNS` for each object, boxes in pixels of the picture as it was given."""
    boxes = found.boxes_xyxy.astype(float).round(1).tolist()
    return [[name, round(score, 3), *box] for name, score, box in zip(found.class_names, found.scores.tolist(), boxes)]


# ------------------------------------------------------------------------------------------------------------ page


def load_gradio() -> Any:
    """Gradio, told before it is imported to tell nobody.

    Raises:
        MissingPackageError: it is not installed.
    """
    os.environ.update(WITHOUT_NETWORK)
    return needed("gradio", "the page", "demo")


def create_page(demo: Demo, title: str, examples: Sequence[str | os.PathLike] = ()) -> Any:
    """The page, a `gradio.Blocks`, for `serve`.

    Args:
        demo: answers.
        title: of the page.
        examples: files of pictures to try.

    Raises:
        MissingPackageError: Gradio is not installed.
    """
    gr = load_gradio()
    paths = [os.path.abspath(path) for path in examples]
    gr.set_static_paths(paths)
    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=CACHE_S) as page:
        gr.Markdown(f"# {title}")
        seen = gr.State("")
        with gr.Row():
            with gr.Column(scale=1, min_width=280):
                file = gr.File(label="Picture", height=150)
                given = _choices(gr, demo)
            with gr.Column(scale=3, min_width=320):
                shown = _views(gr)
        if paths:
            _add_examples(gr, paths, file)
        file.change(_answer_of(demo), [file, *given], [seen, *shown], api_visibility="private")
        gr.on([choice.change for choice in given], _view_of(demo), [seen, *given], shown, api_visibility="private")
    return page


def _choices(gr: Any, demo: Demo) -> list[Any]:
    """The controls of what is shown: threshold and classes."""
    names = demo.predictor.classes.names
    return [
        gr.Slider(0, 1, value=round(demo.threshold, 2), step=0.01, label="Lowest score"),
        gr.Dropdown(names, value=[], multiselect=True, label="Classes (none chosen: all)"),
    ]


def _views(gr: Any) -> list[Any]:
    """The parts that show a picture, in the order of `_parts`."""
    line = gr.Markdown("Drop a picture at the left.")
    with gr.Row():
        drawing = gr.Image(label="Objects", interactive=False, buttons=["download", "fullscreen"])
        features = gr.Image(label="Features of the backbone", interactive=False, buttons=["download", "fullscreen"])
    table = gr.Dataframe(headers=list(COLUMNS), interactive=False, label="Objects, boxes in pixels")
    return [line, drawing, table, features]


def _add_examples(gr: Any, paths: list[str], file: Any) -> None:
    """Small pictures below the page; one that is chosen is looked at as a dropped one."""
    pictures = gr.Dataset(components=["image"], samples=[[path] for path in paths], type="index", label="Examples")
    pictures.click(lambda index: paths[index], pictures, file, api_visibility="private")


def _answer_of(demo: Demo) -> Any:
    def answer(path: str | None, threshold: float, classes: list[str]) -> tuple[Any, ...]:
        seen = demo.try_look(path)
        return seen, *_parts(demo.show(seen, threshold, classes))

    return answer


def _view_of(demo: Demo) -> Any:
    def view(seen: Seen | str, threshold: float, classes: list[str]) -> tuple[Any, ...]:
        return _parts(demo.show(seen, threshold, classes))

    return view


def _parts(shown: Shown) -> tuple[Any, ...]:
    return _plain(shown.line), shown.drawing, list(shown.rows), shown.features


def _plain(line: str) -> str:
    """Names of files as they are, not as the page's markup."""
    return "".join(f"\\{letter}" if letter in "\\`*_[]<>#$|~" else letter for letter in line)


def serve(page: Any, demo: Demo, host: str, port: int, wait: bool = True) -> None:
    """Answer browsers at http://host:port, until Ctrl-C where `wait`.

    Raises:
        OSError: the port is taken, or the address is none of this machine.
    """
    gr = load_gradio()
    page.launch(
        server_name=host,
        server_port=port,
        share=False,
        ssr_mode=False,
        quiet=True,
        prevent_thread_lock=not wait,
        footer_links=[],
        max_file_size=demo.max_bytes,
        state_session_capacity=SESSIONS,
        theme=gr.themes.Default(font=FONTS, font_mono=["monospace"]),
    )
