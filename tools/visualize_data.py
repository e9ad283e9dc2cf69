#!/usr/bin/env python
"""Check and draw the data of a config: `python tools/visualize_data.py --config-file FILE [key=value ...]`."""

import argparse
import importlib.util
import sys
from pathlib import Path

if importlib.util.find_spec("dinov2_detrex") is None:  # a checkout that is not installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dinov2_detrex.data.dataset_figures import visualize  # noqa: E402
from dinov2_detrex.data.errors import DatasetError  # noqa: E402
from dinov2_detrex.runtime.errors import UserError  # noqa: E402
from dinov2_detrex.training.cli import load  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description="Check a data set, print and draw its statistics, draw batches.")
    parser.add_argument("--config-file", default="", metavar="FILE", help="any training config")
    parser.add_argument("--output-dir", default="output/data", metavar="DIR", help="where the figures go")
    parser.add_argument("--num-images", type=int, default=16, metavar="N", help="augmented images to draw")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("opts", nargs="*", metavar="key=value", help="changes to the config, in Hydra's grammar")
    args = parser.parse_intermixed_args()
    try:
        sound = visualize(load(args.config_file, args.opts), args.output_dir, args.num_images, args.seed)
    except (DatasetError, UserError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
