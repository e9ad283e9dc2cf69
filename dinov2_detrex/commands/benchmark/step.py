"""One training step and one evaluation forward, by part."""

from dinov2_detrex.cli import AT_LEAST_0, PIXELS, add_config_arguments
from dinov2_detrex.commands.benchmark import add_common_arguments, measure

RECIPE = "projects/dino_dinov2/configs/shapes/dino_dinov2_tiny_shapes.py"


def add_arguments(parser):
    add_common_arguments(parser)
    add_config_arguments(parser, default=RECIPE)
    parser.add_argument("--size", dest="image_hw", type=PIXELS, nargs=2, default=(128, 128), metavar=("H", "W"))
    parser.add_argument("--batch", type=AT_LEAST_0, default=0, metavar="N", help="images; the config's own number")
    parser.add_argument("--boxes", dest="boxes_per_image", type=AT_LEAST_0, default=3, metavar="N", help="of an image")


def run(args):
    from dinov2_detrex.analysis.benchmark.step import report

    measure(report, args)
