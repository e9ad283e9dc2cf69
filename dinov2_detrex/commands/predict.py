"""Detect objects in pictures and videos: write what is found as JSON, and every picture with its boxes.

examples:
  dinov2-detrex predict --run output/mine photo.jpg photos/ 'more/**/*.jpg'
  dinov2-detrex predict my_package photos/ --package-thresholds          # a model package, or owner/name on the Hub
  dinov2-detrex predict --config-file RECIPE --weights model.pth photo.jpg
  dinov2-detrex predict my_detector.onnx photos/                         # what `export` wrote; .xml and .pt2 likewise
  dinov2-detrex predict --run output/mine photos/ --score-threshold 0.5 --class-threshold cat=0.3 --class cat
  dinov2-detrex predict --run output/mine aerial.tif --tile 640          # small objects in a large picture
  dinov2-detrex predict --run output/mine clip.mp4 --track               # extras: video, track
  dinov2-detrex predict --run output/mine --camera 0                     # until Ctrl-C

The results are in predictions.jsonl, a line for each picture, and predictions.json. A picture that cannot be read is
named and left out; the exit status is 1 then.
"""

import argparse
import os
from pathlib import Path

from dinov2_detrex.cli import (
    AT_LEAST_1,
    PIXELS,
    SHARE,
    Number,
    add_config_arguments,
    load_config,
    split_words,
    take_config,
)
from dinov2_detrex.runtime.errors import UsageError
from dinov2_detrex.runtime.openmp import yield_when_busy


def add_arguments(parser):
    add_config_arguments(parser, metavar="PICTURE|key=value")
    parser.add_argument(
        "--run", default="", metavar="FOLDER", help="of a run, a model package (or its Hub id), or an exported file"
    )
    parser.add_argument(
        "--weights",
        default="",
        metavar="WHICH",
        help="best (model_best.pth, the default of a run), final, averaged, or a file",
    )
    parser.add_argument("--output-dir", default="output/predictions", metavar="DIR")
    parser.add_argument("--no-drawings", action="store_true", help="write the results alone")
    _add_selection(parser)
    parser.add_argument("--tile", type=PIXELS, metavar="PX", help="look at large pictures in tiles of that side")
    parser.add_argument("--overlap", type=Number(0, 0.9, fraction=True), default=0.2, metavar="S", help="of the tiles")
    parser.add_argument("--batch-size", type=AT_LEAST_1, metavar="N", help="default: 8 on a GPU, 1 on a CPU")
    parser.add_argument("--device", metavar="NAME", help="cuda, cuda:1, mps or cpu; default: as train.device says")
    parser.add_argument(
        "--dtype", choices=("fp32", "bf16", "fp16", "auto"), default="fp32", help="default: fp32, as in evaluations"
    )
    parser.add_argument("--compile", action="store_true", help="compile the backbone, for many pictures of one shape")
    parser.add_argument("--camera", metavar="N", help="the camera of that number (on Windows: of that name)")
    parser.add_argument("--track", action="store_true", help="number the objects of a video or camera")
    parser.add_argument("--opts", nargs="*", default=[], help=argparse.SUPPRESS)  # overrides, as they once were given


def _add_selection(parser):
    parser.add_argument("--score-threshold", type=SHARE, metavar="S", help="lowest score (default: 0.3)")
    parser.add_argument(
        "--class-threshold", action="append", default=[], metavar="NAME=S", help="that of one class; may be repeated"
    )
    parser.add_argument("--package-thresholds", action="store_true", help="those of the model package")
    parser.add_argument(
        "--class", dest="classes", action="append", metavar="NAME", help="this class alone; may be repeated"
    )
    parser.add_argument("--top-k", type=AT_LEAST_1, metavar="N", help="at most so many of a picture")


@yield_when_busy()
def run(args):
    args.config_file = args.run or args.config_file
    take_config(args)
    _require_model(args.config_file)
    words, overrides = split_words(args.overrides, os.path.exists)
    args.overrides = overrides + args.opts
    if not words and args.camera is None:
        raise UsageError("no picture was given (--help shows the flags)")
    thresholds = dict(map(_class_threshold, args.class_threshold))

    from dinov2_detrex.inference.tiles import Tiling
    from dinov2_detrex.inference.video import SUFFIXES, Video
    from dinov2_detrex.inference.writing import Request, predict_pictures, predict_video

    videos = [word for word in words if Path(word).suffix.lower() in SUFFIXES and os.path.isfile(word)]
    pictures = [word for word in words if word not in videos]
    opened = [(Video(path), f"{number:04d}_{Path(path).stem}", False) for number, path in enumerate(videos)]
    if args.camera is not None:
        args.batch_size = 1  # each frame at once
        opened.append((Video.camera(args.camera), f"camera_{Path(args.camera).name}", True))
    predictor = _predictor(args)
    request = Request(
        Path(args.output_dir),
        _selection(args, predictor, thresholds),
        Tiling(args.tile, args.overlap) if args.tile else None,
        drawings=not args.no_drawings,
        track=args.track,
    )
    for video, name, live in opened:
        predict_video(predictor, video, name, request, live)
    if pictures:
        predict_pictures(predictor, pictures, request)


def _require_model(name):
    from dinov2_detrex.inference.pictures import is_picture_name

    if not name or is_picture_name(name):
        raise UsageError("no model was given: --run FOLDER, or --config-file FILE with --weights FILE")


def _predictor(args):
    from dinov2_detrex.config.loading import find_config
    from dinov2_detrex.inference import Predictor
    from dinov2_detrex.inference.exported import is_exported, refuse_changes
    from dinov2_detrex.inference.hub import find_package, is_hub_id
    from dinov2_detrex.inference.runs import weights_for

    options = {name: getattr(args, name) for name in ("device", "dtype", "batch_size")}
    if is_exported(args.config_file):
        refuse_changes(args.config_file, args.overrides, args.weights, args.compile)
        return Predictor(args.config_file, **options)
    if args.config_file and not os.path.exists(args.config_file) and is_hub_id(args.config_file):
        args.config_file = str(find_package(args.config_file))
    cfg = load_config(args)
    trained = weights_for(find_config(args.config_file), args.weights)
    return Predictor(cfg, trained.file, trained.averaged or None, compile=args.compile, **options)


def _selection(args, predictor, thresholds):
    from dataclasses import replace

    chosen = predictor.selection(args.score_threshold, "package" if args.package_thresholds else None)
    by_class = {**chosen.by_class, **thresholds}
    return replace(chosen, by_class=by_class, classes=args.classes, top_k=args.top_k)


def _class_threshold(text):
    name, _, score = text.rpartition("=")
    try:
        return name, SHARE(score)
    except argparse.ArgumentTypeError as error:
        raise UsageError(f"--class-threshold {text}: NAME=SCORE is needed, and the score {error}") from error
