"""Check the data of a config, print and draw its statistics, draw augmented batches."""

from dinov2_detrex.cli import AT_LEAST_1, SEED, add_config_arguments, load_config


def add_arguments(parser):
    add_config_arguments(parser)
    parser.add_argument("--output-dir", default="output/data", metavar="DIR", help="where the figures go")
    parser.add_argument("--num-images", type=AT_LEAST_1, default=16, metavar="N", help="augmented images to draw")
    parser.add_argument("--seed", type=SEED, default=0)


def run(args):
    from dinov2_detrex.visualization.dataset_figures import visualize

    sound = visualize(load_config(args), args.output_dir, args.num_images, args.seed)
    return 0 if sound else 1
