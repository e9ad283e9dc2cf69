"""Draw what a run predicted at its last evaluation: images with ground truth beside predictions.

python tools/draw_predictions.py --config-file CONFIG [--output PNG] [key=value ...]
"""

import argparse
import importlib.util
import sys
from pathlib import Path

if importlib.util.find_spec("dinov2_detrex") is None:  # a checkout that is not installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dinov2_detrex.data.drawn_results import draw_results
from dinov2_detrex.runtime.errors import UserError
from dinov2_detrex.training.cli import load


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, metavar="FILE", help="the recipe, or the run's config.yaml")
    parser.add_argument("--output", metavar="PNG", help="default: predictions.png in the run's folder")
    parser.add_argument("--max-images", type=int, default=12, metavar="N")
    parser.add_argument("--score-threshold", type=float, default=0.3, metavar="S")
    parser.add_argument("opts", nargs="*", metavar="key=value", help="the overrides that the run was started with")
    args = parser.parse_intermixed_args()
    try:
        cfg = load(args.config_file, args.opts)
        print("drawn:", draw_results(cfg, args.output, args.max_images, args.score_threshold))
    except (UserError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
