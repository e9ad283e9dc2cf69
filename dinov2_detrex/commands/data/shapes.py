"""Generate the shapes data set (COCO format)."""

import logging

from dinov2_detrex.cli import AT_LEAST_1, SEED, Number
from dinov2_detrex.data.shapes import CLASS_NAMES, OUTLINES_XY, generate_shapes


def add_arguments(parser):
    parser.add_argument("--root", help="its folder (default: shapes under $DETECTRON2_DATASETS, else ./datasets)")
    parser.add_argument("--num-train", type=AT_LEAST_1, default=4000)
    parser.add_argument("--num-val", type=AT_LEAST_1, default=300)
    parser.add_argument(
        "--image-size", type=Number(32, 2**16), default=128, help="the longest side possible, in pixels"
    )
    parser.add_argument("--seed", type=SEED, default=0)
    parser.add_argument("--class-names", nargs="+", default=list(CLASS_NAMES), choices=list(OUTLINES_XY))


def run(args):
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    options = vars(args)
    del options["debug"]
    generate_shapes(**options)
