"""Detect objects in pictures: write predictions.json, and every picture with its boxes."""

import argparse
import os
from pathlib import Path

from dinov2_detrex.cli import SHARE, add_config_arguments, load_config, split_words
from dinov2_detrex.runtime.errors import UsageError
from dinov2_detrex.runtime.openmp import yield_when_busy


def add_arguments(parser):
    add_config_arguments(parser, metavar="PICTURE|key=value")
    parser.add_argument("--weights", required=True, metavar="FILE", help="e.g. the run's model_best.pth")
    parser.add_argument("--output-dir", default="output/predictions", metavar="DIR")
    parser.add_argument("--score-threshold", type=SHARE, default=0.3, metavar="S")
    parser.add_argument("--opts", nargs="*", default=[], help=argparse.SUPPRESS)  # overrides, as they once were given


@yield_when_busy()
def run(args):
    pictures, overrides = split_words(args.overrides, os.path.isfile)
    args.overrides = overrides + args.opts
    if not pictures:
        raise UsageError("no picture was given (--help shows the flags)")

    from dinov2_detrex.inference import Predictor
    from dinov2_detrex.runtime.files import write_json
    from dinov2_detrex.visualization.sheets import draw_detections, save_picture

    folder = Path(args.output_dir)
    predictor = Predictor(load_config(args), args.weights)
    found = []
    for number, picture in enumerate(pictures):
        detections = predictor(picture, args.score_threshold)
        drawn = folder / f"{number:04d}_{Path(picture).stem}.png"  # two folders may have a file of one name
        save_picture(draw_detections(picture, detections, predictor.classes.category_ids), drawn)
        found += [{"file_name": picture} | detection for detection in detections]
        print(f"{picture}: {len(detections)} objects, drawn in {drawn}")
    write_json(folder / "predictions.json", found, indent=1)
    print(f"all of them are in {folder / 'predictions.json'}")
