#!/usr/bin/env python
"""What resampling the patch kernel changes: `python tools/compare_patch_interpolation.py IMAGE ... [--model NAME]`."""

import argparse
import importlib.util
import sys
from pathlib import Path

if importlib.util.find_spec("dinov2_detrex") is None:  # a checkout that is not installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dinov2_detrex.backbone.compare import compare  # noqa: E402
from dinov2_detrex.data.image_reading import open_upright  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Compare a ViT at its own patch with both resamplings of its kernel: a table and a figure."
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="pictures to compare the features on")
    parser.add_argument("--model", default="vit_small_patch14_dinov2.lvd142m", metavar="NAME", help="a ViT of timm")
    parser.add_argument("--checkpoint-path", default="", metavar="FILE", help="local weights (see the README)")
    parser.add_argument("--pretrained", action="store_true", help="timm's weights; neither: random weights")
    parser.add_argument("--patch-size", type=int, default=16, help="patch to resample to")
    parser.add_argument("--cells", type=int, default=37, help="cells on the longer side of a picture")
    parser.add_argument("--output", default="output/patch_interpolation.png", metavar="FILE", help="the figure")
    args = parser.parse_args()
    try:
        pictures = [open_upright(path) for path in args.images]
        print(
            compare(
                args.model,
                pictures,
                args.output,
                patch_size=args.patch_size,
                cells=args.cells,
                pretrained=args.pretrained,
                checkpoint_path=args.checkpoint_path,
            )
        )
    except (RuntimeError, ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"figure: {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
