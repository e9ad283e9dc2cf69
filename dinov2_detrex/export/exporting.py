"""How does a detector become a file of another runtime? It is made, run, compared, and only then given its name."""

import contextlib
import io
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from dinov2_detrex.export.bags import attention_for
from dinov2_detrex.export.departing import first_departure
from dinov2_detrex.export.graph import DetectionGraph, RawGraph, exportable
from dinov2_detrex.export.options import ExportOptions
from dinov2_detrex.export.repository import SERVERS, model_place, repository_files
from dinov2_detrex.export.shapes import GraphShapes
from dinov2_detrex.export.source import Source, describe, to_json
from dinov2_detrex.export.verifying import TOLERANCES, Verdict, guessed_graph, verify
from dinov2_detrex.export.writing import NAMED, write
from dinov2_detrex.inference.evaluating import average_precision
from dinov2_detrex.inference.exported import ExportedDetector, load_runtime
from dinov2_detrex.runtime.errors import UserError
from dinov2_detrex.runtime.files import write_text

LARGEST_LOSS = {"fp16": 0.1, "int8": 0.5}  # of AP, in points of 100


def export(source: Source, options: ExportOptions, out: Path, images: Sequence[Tensor]) -> Verdict:
    """Write a file and prove it.

    Args:
        source: the detector.
        options: what is asked for.
        out: of the file, or of a server's model repository; it must not exist.
        images: (3, h, w), uint8, RGB, to verify on, and for int8 to take ranges from.

    Raises:
        UserError: the file exists, or does not answer as the detector does: in float32 box by box, else by AP.
    """
    if out.exists():
        raise UserError(f"{out} exists; give another name with --out, or remove it")
    model = source.model
    shapes = GraphShapes.of(model, options.size_hw, options.batch, options.raw, options.largest)
    graph = shapes.describe(options.dtype, guarded=options.format in ("torch-export", "aotinductor"))
    form = exportable(model, shapes.canvas_hw, attention_for(options.format, shapes))
    module = RawGraph(form) if options.raw else DetectionGraph(form)
    metadata = describe(source, graph)
    with appearing(out) as unfinished:
        file = _place(options, unfinished, out.name)
        write(options, module, shapes, file, to_json(metadata), images)
        verdict = verify(file, graph, model, images, TOLERANCES[options.dtype])
        named = file.with_name(NAMED)
        if options.dtype != "fp32":
            verdict = replace(verdict, ap=_aps(source, options, file))
        _require_likeness(verdict, options.dtype, out, named, module, shapes, images)
        named.unlink(missing_ok=True)
        if options.to in SERVERS:
            for name, text in repository_files(options.to, out.name, metadata, file).items():
                write_text(unfinished / name, text)
    return verdict


def _place(options: ExportOptions, out: Path, name: str) -> Path:
    """Where the file itself is written: in a server's repository, in its version 1."""
    if options.to not in SERVERS:
        return out
    file = out / model_place(options.to, name)
    file.parent.mkdir(parents=True)
    return file


def _require_likeness(
    verdict: Verdict,
    dtype: str,
    out: Path,
    named: Path,
    module: nn.Module,
    shapes: GraphShapes,
    images: Sequence[Tensor],
) -> None:
    if dtype != "fp32":
        if verdict.ap_loss > LARGEST_LOSS[dtype]:
            lost = f"it loses {verdict.ap_loss:.2f} AP, and {dtype} may lose {LARGEST_LOSS[dtype]}"
            raise UserError(f"{out} was not written: {lost}; {'; '.join(verdict.lines())}")
    elif verdict.comparison.num_unmatched:
        where = "the program's layers have no names to compare by"
        if named.is_file():
            where = first_departure(named, module, shapes, images)
        raise UserError(f"{out} was not written, it is not the detector: {verdict.lines()[0]}; {where}")


def _aps(source: Source, options: ExportOptions, path: Path) -> dict[str, float]:
    """AP of the detector and of the file on the data set."""
    assert options.data is not None
    predictor = source.predictor
    models = {"PyTorch": source.model, "file": ExportedDetector(load_runtime(path), path).eval()}
    given = predictor.mapper, predictor.classes.names, options.data, options.data_images
    with contextlib.redirect_stdout(io.StringIO()):  # two tables that do not say whose they are
        return {name: average_precision(model, *given)["bbox"]["AP"] for name, model in models.items()}


def verify_file(source: Source, path: Path, images: Sequence[Tensor]) -> Verdict:
    """Compare any file with the detector, also one that was made elsewhere: it says what it takes, or its shapes do.

    Raises:
        UserError: it cannot be run, or does not answer as the detector does.
    """
    graph = load_runtime(path).metadata.get("graph") or guessed_graph(path, source.model)
    verdict = verify(path, graph, source.model, images, TOLERANCES[graph["dtype"]])
    if verdict.comparison.num_unmatched and graph["dtype"] == "fp32":
        raise UserError(f"{path} does not answer as {source.name}: {verdict.lines()[0]}")
    return verdict


@contextlib.contextmanager
def appearing(out: Path) -> Iterator[Path]:
    """A path in a new folder beside `out`; the files in there move beside `out` when the block ends well."""
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = out.with_name(f".unfinished-{out.name}-{secrets.token_hex(4)}")
    folder.mkdir()
    try:
        yield folder / out.name
        for file in sorted(folder.iterdir(), key=lambda file: file.name == out.name):  # the one that is opened last
            os.replace(file, out.with_name(file.name))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
