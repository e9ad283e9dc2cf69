#!/usr/bin/env python
"""Detect objects in pictures: `python tools/predict.py --config-file RUN/config.yaml --weights FILE PICTURE ...`."""

import argparse
import importlib.util
import json
import sys
from pathlib import Path

if importlib.util.find_spec("dinov2_detrex") is None:  # a checkout that is not installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dinov2_detrex.data.visualization import draw_detections  # noqa: E402
from dinov2_detrex.inference import Predictor  # noqa: E402
from dinov2_detrex.runtime.errors import UserError  # noqa: E402
from dinov2_detrex.training.cli import load  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description="Write predictions.json, and every picture with its boxes.")
    parser.add_argument("pictures", nargs="+", metavar="PICTURE")
    parser.add_argument("--config-file", required=True, metavar="FILE", help="the run's config.yaml, or its recipe")
    parser.add_argument("--weights", required=True, metavar="FILE", help="e.g. the run's model_best.pth")
    parser.add_argument("--output-dir", default="output/predictions", metavar="DIR")
    parser.add_argument("--score-threshold", type=float, default=0.3, metavar="S")
    parser.add_argument("--opts", nargs="*", default=[], metavar="key=value", help="changes to the config")
    args = parser.parse_args()
    folder = Path(args.output_dir)
    try:
        predictor = Predictor(load(args.config_file, args.opts), args.weights)
        folder.mkdir(parents=True, exist_ok=True)
        found = []
        for number, picture in enumerate(args.pictures):
            detections = predictor(picture, args.score_threshold)
            drawn = folder / f"{number:04d}_{Path(picture).stem}.png"  # two folders may have a file of one name
            draw_detections(picture, detections, predictor.classes.category_ids).save(drawn)
            found += [{"file_name": picture} | detection for detection in detections]
            print(f"{picture}: {len(detections)} objects, drawn in {drawn}")
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    (folder / "predictions.json").write_text(json.dumps(found, indent=1))
    print(f"all of them are in {folder / 'predictions.json'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
