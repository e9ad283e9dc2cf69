"""Print parameters, FLOPs and kept activations of a model by part, or the memory of a training step."""

from dinov2_detrex.cli import AT_LEAST_1, PIXELS, add_config_arguments, load_config


def add_arguments(parser):
    add_config_arguments(parser)
    parser.add_argument(
        "--size", type=PIXELS, nargs="+", default=(800, 1344), metavar="PIXELS", help="height and width, or a side"
    )
    parser.add_argument("--batch", type=AT_LEAST_1, default=1, metavar="N", help="images at once")
    parser.add_argument("--weights", action="store_true", help="load the weights that the config asks for")
    parser.add_argument(
        "--device",
        choices=("cpu", "cuda"),
        help="instead, tell the peak memory of a training step on this device, which need not be there",
    )


def run(args):
    from dinov2_detrex.analysis.cost import analyze, memory_report
    from dinov2_detrex.config.pretrained import without_pretrained
    from dinov2_detrex.runtime.errors import UsageError

    if len(args.size) > 2:
        raise UsageError(f"--size takes height and width, or one side, not {len(args.size)} numbers")
    image_hw = (args.size[0], args.size[-1])
    cfg = load_config(args)
    if not args.weights:
        cfg = without_pretrained(cfg)
    if args.device:
        print(memory_report(cfg, image_hw, args.batch, args.device))
    else:
        print(analyze(cfg, image_hw, args.batch))
