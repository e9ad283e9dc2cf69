"""One training step beside busy processes."""

from dinov2_detrex.cli import AT_LEAST_0, AT_LEAST_1, PIXELS, add_config_arguments
from dinov2_detrex.commands.benchmark import add_common_arguments, measure
from dinov2_detrex.commands.benchmark.step import RECIPE


def add_arguments(parser):
    add_common_arguments(parser, repeats=False)
    add_config_arguments(parser, default=RECIPE)
    parser.add_argument("--repeats", type=AT_LEAST_1, default=12, metavar="N", help="steps; the median counts")
    parser.add_argument("--size", dest="image_hw", type=PIXELS, nargs=2, default=(128, 128), metavar=("H", "W"))
    parser.add_argument("--most-busy", type=AT_LEAST_0, default=2, metavar="N", help="processes beside the step")
    parser.add_argument("--threads", type=AT_LEAST_0, default=0, metavar="N", help="of torch; one per core")


def run(args):
    from dinov2_detrex.analysis.benchmark.busy import report

    measure(report, args)
