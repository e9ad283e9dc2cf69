"""Evaluate a run, a model package or an exported file, on its own test data or others.

examples:
  dinov2-detrex evaluate output/mine
  dinov2-detrex evaluate my_detector --data my/folder             # its part val, valid or validation
  dinov2-detrex evaluate my_detector --data 'my/folder#test'
  dinov2-detrex evaluate my_detector --data my/test.json --images my/images
  dinov2-detrex evaluate my_detector.onnx --data my/folder        # what `export` wrote

The numbers are those of `train --eval-only`, which takes any checkpoint and config.
"""

from dinov2_detrex.cli import AT_LEAST_1, add_config_arguments, take_config
from dinov2_detrex.runtime.errors import UsageError


def add_arguments(parser):
    add_config_arguments(parser, metavar="RUN_OR_PACKAGE|key=value")
    parser.add_argument("--weights", default="", metavar="WHICH", help="of a run: best (default), final, or a file")
    parser.add_argument("--data", metavar="PATH", help="a folder (or FOLDER#part) of a known format, or a JSON file")
    parser.add_argument("--images", metavar="FOLDER", help="of the images that a JSON file of --data lists")
    parser.add_argument("--output-dir", default="output/evaluation", metavar="DIR", help="default: %(default)s")
    parser.add_argument("--num-gpus", type=AT_LEAST_1, default=1, metavar="N", help="processes, one GPU each")


def run(args):
    take_config(args)
    if args.images and not args.data:
        raise UsageError("--images goes with --data")

    from dinov2_detrex.inference.evaluating import evaluate_exported, evaluation_overrides
    from dinov2_detrex.inference.exported import is_exported, refuse_changes
    from dinov2_detrex.training.cli import train

    if is_exported(args.config_file):
        refuse_changes(args.config_file, args.overrides, args.weights)
        evaluate_exported(args.config_file, args.data, args.images, args.output_dir)
        return 0
    args.overrides += evaluation_overrides(
        args.config_file, args.overrides, args.output_dir, args.weights, args.data, args.images
    )
    args.resume, args.eval_only, args.num_machines, args.machine_rank, args.dist_url = False, True, 1, 0, "auto"
    return train(args)
