#!/usr/bin/env python
"""What the parts of a model cost: `python tools/analyze_model.py --config-file FILE [--size H W] [key=value ...]`."""

import argparse
import importlib.util
import sys
from pathlib import Path

if importlib.util.find_spec("dinov2_detrex") is None:  # a checkout that is not installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dinov2_detrex.training.cli import load  # noqa: E402

# isort: split
from dinov2_detrex.analysis import analyze, without_pretrained  # noqa: E402
from dinov2_detrex.training.errors import UserError  # noqa: E402


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Print parameters, FLOPs and kept activations of a model by part.")
    parser.add_argument("--config-file", default="", metavar="FILE", help="any training config")
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1344), metavar=("H", "W"), help="pixels; 800 1344")
    parser.add_argument("--batch", type=int, default=1, metavar="N", help="images at once")
    parser.add_argument("--weights", action="store_true", help="load the weights that the config asks for")
    parser.add_argument("opts", nargs="*", metavar="key=value", help="changes to the config, in Hydra's grammar")
    args = parser.parse_intermixed_args(argv)
    try:
        cfg = load(args.config_file, args.opts)
        if not args.weights:
            cfg = without_pretrained(cfg)
        print(analyze(cfg, tuple(args.size), args.batch))
    except (UserError, ValueError, RuntimeError, ImportError) as error:
        print("error:", "; ".join(map(str.strip, str(error).splitlines())), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
