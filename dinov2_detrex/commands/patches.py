"""Compare a ViT at its own patch with both resamplings of its kernel: a table and a figure."""

from dinov2_detrex.cli import PIXELS


def add_arguments(parser):
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="pictures to compare the features on")
    parser.add_argument("--model", default="vit_small_patch14_dinov2.lvd142m", metavar="NAME", help="a ViT of timm")
    parser.add_argument("--checkpoint-path", default="", metavar="FILE", help="local weights of any layout")
    parser.add_argument("--pretrained", action="store_true", help="timm's weights; neither: random weights")
    parser.add_argument("--patch-size", type=PIXELS, default=16, help="patch to resample to")
    parser.add_argument("--cells", type=PIXELS, default=37, help="cells on the longer side of a picture")
    parser.add_argument("--output", default="output/patch_interpolation.png", metavar="FILE", help="the figure")


def run(args):
    from dinov2_detrex.analysis.patch_resampling import compare
    from dinov2_detrex.data.image_reading import open_upright

    pictures = [open_upright(path) for path in args.images]
    options = {name: getattr(args, name) for name in ("patch_size", "cells", "pretrained", "checkpoint_path")}
    print(compare(args.model, pictures, args.output, **options))
    print(f"figure: {args.output}")
