"""A config's inference and training step against the machine's limit: time, memory, parts; sizes, batches, dtypes.

The limit is measured in the same run: the rate of matrix products in that dtype, and of copies. With one thread times
are CPU time, which other programs hardly change; with more they are wall time and want an idle machine.
"""

import argparse
import re

from dinov2_detrex.cli import AT_LEAST_1, add_config_arguments
from dinov2_detrex.commands.benchmark import add_common_arguments
from dinov2_detrex.commands.benchmark.step import RECIPE

SIZE = re.compile(r"(\d{1,5})(?:x(\d{1,5}))?")
DTYPES = ("float32", "bfloat16", "float16")


def size(text: str) -> tuple[int, int]:
    """ "800x1216" -> (800, 1216); "518" -> (518, 518)."""
    found = SIZE.fullmatch(text)
    sides = tuple(int(side or found[1]) for side in found.groups()) if found else (0, 0)
    if min(sides) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a side or HEIGHTxWIDTH in pixels")
    return sides[0], sides[-1]


def add_arguments(parser):
    add_common_arguments(parser)
    add_config_arguments(parser)
    parser.add_argument("--size", type=size, nargs="+", default=[(128, 128)], metavar="HxW", help="pixels")
    parser.add_argument("--batch", type=AT_LEAST_1, nargs="+", default=[1], metavar="N", help="images at once")
    parser.add_argument("--dtype", choices=DTYPES, nargs="+", default=["float32"], help="of autocast; float32 is none")
    parser.add_argument("--compile", action="store_true", help="also compiled by torch.compile, after a warm-up")
    parser.add_argument("--threads", type=AT_LEAST_1, default=1, metavar="N", help="of torch on a CPU")
    parser.add_argument("--against", metavar="CONFIG", help="another implementation, measured in turns with the first")
    parser.add_argument("--json", metavar="FILE", help="write all numbers")
    parser.add_argument("--compare", metavar="RUN.json", help="an earlier --json: times and memory as ratios to it")
    parser.add_argument("--plot", metavar="FILE", help="a figure of time and memory over image size and batch")


def run(args):
    import torch

    from dinov2_detrex.analysis.benchmark import detector, timing
    from dinov2_detrex.cli import take_config
    from dinov2_detrex.runtime import files
    from dinov2_detrex.runtime.devices import choose_device

    take_config(args)
    earlier = detector.read_run(args.compare) if args.compare else None
    torch.set_num_threads(args.threads)
    configs = [args.config_file or RECIPE, *([args.against] if args.against else [])]
    compiled = (False, True) if args.compile else (False,)
    cases = [
        detector.Case(hw, batch, dtype, how) for hw in args.size for batch in args.batch for dtype in args.dtype
        for how in compiled
    ]  # fmt: skip
    device = choose_device(args.device, option="--device")
    measured = detector.measure(configs, args.overrides, cases, device, args.repeats)
    measured |= {"header": timing.header()}
    if args.json:
        files.write_json(args.json, measured, indent=1)
    print(f"{measured['header']}\n\n{detector.report(measured, earlier)}")
    if args.plot:
        from dinov2_detrex.analysis.benchmark.figure import draw

        draw(measured, args.plot)
