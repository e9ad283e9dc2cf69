"""A detector in PyTorch beside its exported files on this CPU: time, start-up, size and the largest difference.

examples:
  dinov2-detrex benchmark exported dino_dinov2_b_12ep --size 518 518           # random weights: times, no differences
  dinov2-detrex benchmark exported output/mine --size 800 1344 --images photographs/val

Eager PyTorch in fp32 and bf16, ONNX Runtime in fp32, OpenVINO in fp32, bf16 and int8 take turns with one picture; what
is compared are the boxes of all pictures. Wants an idle machine and the extras `export` and `int8`.
"""

from dinov2_detrex.cli import AT_LEAST_1, PIXELS, add_config_arguments, take_config
from dinov2_detrex.commands.benchmark.step import RECIPE


def add_arguments(parser):
    add_config_arguments(parser, metavar="RUN_OR_PACKAGE_OR_RECIPE|key=value")
    parser.add_argument("--weights", default="", metavar="WHICH", help="of a run: best (default), final, or a file")
    parser.add_argument("--size", nargs=2, type=PIXELS, default=(128, 128), metavar=("H", "W"), help="pixels")
    parser.add_argument("--images", nargs="+", default=[], metavar="PATH", help="pictures, or folders; drawn without")
    parser.add_argument("--threads", type=AT_LEAST_1, metavar="N", help="of all; default: as torch has it")
    parser.add_argument("--repeats", type=AT_LEAST_1, default=5, metavar="N", help="the median counts")


def run(args):
    take_config(args)

    import torch

    from dinov2_detrex.analysis.benchmark.timing import header
    from dinov2_detrex.export.benchmark import report

    if args.threads:
        torch.set_num_threads(args.threads)
    config = args.config_file or RECIPE
    table = report(config, args.overrides, tuple(args.size), args.repeats, args.weights, args.images)
    height, width = args.size
    print(f"{header()}\nthreads: {torch.get_num_threads()}\npicture: {height} x {width} pixels\n\n{table}")
