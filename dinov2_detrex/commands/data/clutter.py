"""Generate the clutter data set (COCO format): small, half hidden figures of twelve classes."""

import logging

from dinov2_detrex.cli import AT_LEAST_1, SEED, Number
from dinov2_detrex.data.clutter import generate_clutter


def add_arguments(parser):
    parser.add_argument("--root", help="its folder (default: clutter under $DETECTRON2_DATASETS, else ./datasets)")
    parser.add_argument("--num-train", type=AT_LEAST_1, default=4000)
    parser.add_argument("--num-val", type=AT_LEAST_1, default=400)
    parser.add_argument(
        "--image-size", type=Number(64, 2**16), default=160, help="the longest side possible, in pixels"
    )
    parser.add_argument("--seed", type=SEED, default=0)


def run(args):
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    options = vars(args)
    del options["debug"]
    generate_clutter(**options)
