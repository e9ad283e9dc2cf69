"""Print parameters, FLOPs and kept activations of a model by part."""

from dinov2_detrex.cli import AT_LEAST_1, PIXELS, add_config_arguments, load_config


def add_arguments(parser):
    add_config_arguments(parser)
    parser.add_argument(
        "--size", type=PIXELS, nargs=2, default=(800, 1344), metavar=("H", "W"), help="pixels; 800 1344"
    )
    parser.add_argument("--batch", type=AT_LEAST_1, default=1, metavar="N", help="images at once")
    parser.add_argument("--weights", action="store_true", help="load the weights that the config asks for")


def run(args):
    from dinov2_detrex.analysis.cost import analyze
    from dinov2_detrex.config.pretrained import without_pretrained

    cfg = load_config(args)
    if not args.weights:
        cfg = without_pretrained(cfg)
    print(analyze(cfg, tuple(args.size), args.batch))
