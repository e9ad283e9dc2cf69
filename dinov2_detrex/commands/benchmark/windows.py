"""Windowed against global attention, by image size."""

from dinov2_detrex.cli import AT_LEAST_1, PIXELS
from dinov2_detrex.commands.benchmark import add_common_arguments, measure

SIZES_PX = (518, 1024, 1536)


def add_arguments(parser):
    add_common_arguments(parser, model=True)
    parser.add_argument("--window-size", type=AT_LEAST_1, default=11, help="cells a side; 11 tiles 518 pixels")
    parser.add_argument("--depth", type=AT_LEAST_1, default=2, help="blocks that are timed")
    parser.add_argument("--sizes", dest="sizes_px", type=PIXELS, nargs="+", default=SIZES_PX, help="pixels a side")


def run(args):
    from dinov2_detrex.analysis.benchmark.windows import report

    measure(report, args)
