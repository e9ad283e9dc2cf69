"""Draw what a run predicted at its last evaluation: images with ground truth beside predictions.

Takes the recipe with the overrides that the run was started with, or the run's config.yaml.
"""

from dinov2_detrex.cli import AT_LEAST_1, SHARE, add_config_arguments, load_config


def add_arguments(parser):
    add_config_arguments(parser)
    parser.add_argument("--output", metavar="PNG", help="default: predictions.png in the run's folder")
    parser.add_argument("--max-images", type=AT_LEAST_1, default=12, metavar="N")
    parser.add_argument("--score-threshold", type=SHARE, default=0.3, metavar="S")


def run(args):
    from dinov2_detrex.visualization.drawn_results import draw_results

    print("drawn:", draw_results(load_config(args), args.output, args.max_images, args.score_threshold))
