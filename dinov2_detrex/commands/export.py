"""Export a detector to ONNX, OpenVINO or torch.export; the file is run and compared before it gets its name.

examples:
  dinov2-detrex export my_detector --to onnx                      # any size, one picture at a time
  dinov2-detrex export output/mine --to openvino --size 800 1344 --images my/pictures
  dinov2-detrex export my_detector --to onnx --size 560 560 --batch dynamic --raw     # the network alone
  dinov2-detrex export my_detector --to triton --batch dynamic    # a model repository for a server, or --to ovms
  dinov2-detrex export my_detector --verify some.onnx --images my/pictures            # a file, also one made elsewhere

In: images (B, H, W, 3), uint8, RGB, each in the upper left corner of its canvas, and sizes (B, 2), their heights and
widths. Out: boxes (B, n, 4), XYXY in pixels of the image, scores (B, n), 0 for what is none, and labels (B, n).
"""

import argparse
from pathlib import Path

from dinov2_detrex.cli import AT_LEAST_1, PIXELS, add_config_arguments, take_config
from dinov2_detrex.runtime.errors import UsageError
from dinov2_detrex.runtime.openmp import yield_when_busy


def add_arguments(parser):
    add_config_arguments(parser, metavar="RUN_OR_PACKAGE|key=value")
    parser.add_argument("--to", metavar="FORMAT", help="onnx, openvino, torch-export, aotinductor, triton or ovms")
    parser.add_argument("--out", metavar="FILE", help="default: the detector's name with the format's suffix")
    parser.add_argument("--weights", default="", metavar="WHICH", help="of a run: best (default), final, or a file")
    parser.add_argument("--size", nargs=2, type=PIXELS, metavar=("H", "W"), help="of the images in pixels, fixed")
    parser.add_argument("--dynamic", action="store_true", help="images of any size, a multiple of the stride (default)")
    parser.add_argument("--largest", type=PIXELS, default=2048, metavar="PX", help="side of a dynamic size")
    parser.add_argument("--batch", default="1", metavar="N", help="images at a time, or `dynamic` (default: 1)")
    parser.add_argument("--dtype", choices=("fp32", "fp16", "int8"), default="fp32")
    parser.add_argument("--raw", action="store_true", help="the network alone: normalised images to logits and boxes")
    parser.add_argument("--images", nargs="+", default=[], metavar="PATH", help="pictures, or folders, to verify on")
    parser.add_argument("--data", metavar="PATH", help="a data set, whose AP fp16 and int8 are judged by")
    parser.add_argument("--data-images", metavar="FOLDER", help="of the images that a JSON file of --data lists")
    parser.add_argument("--verify", metavar="FILE", help="verify this file instead of writing one")


@yield_when_busy()
def run(args):
    take_config(args)
    if bool(args.to) == bool(args.verify):
        raise UsageError("say --to FORMAT, or --verify FILE (--help shows the flags)")
    if args.dtype == "int8" and not args.images:
        raise UsageError("--dtype int8 takes its ranges from pictures: give --images PATH, a hundred or so")
    if args.size and args.dynamic:
        raise UsageError("--size and --dynamic exclude each other")
    batch = None if args.batch == "dynamic" else _number(args.batch)

    from dinov2_detrex.export.exporting import export, verify_file
    from dinov2_detrex.export.formats import suffix_of
    from dinov2_detrex.export.options import ExportOptions
    from dinov2_detrex.export.source import open_source, pictures

    suffix = suffix_of(args.to) if args.to else ""
    size_hw = tuple(args.size) if args.size else None
    asked = (size_hw, batch, args.largest, args.dtype, args.raw, args.data, args.data_images)
    options = ExportOptions(args.to, *asked) if args.to else None
    source = open_source(args.config_file, args.overrides, args.weights)
    images = pictures(source, args.images)
    path = Path(args.verify or args.out or f"{source.name}{suffix}")
    verdict = export(source, options, path, images) if options else verify_file(source, path, images)
    drawn = "" if args.images or source.examples else " drawn (--images PATH takes yours)"
    print(f"{path}: {len(images)} picture{'s' * (len(images) != 1)}{drawn}")
    print("\n".join(verdict.lines()))
    if args.to == "onnx":
        _say_of_tensorrt(path)


def _say_of_tensorrt(path):
    from dinov2_detrex.export.tensorrt import objections

    against = objections(path)
    print(
        "TensorRT 10.6: "
        + ("; ".join(against) or f"reads all operators; {path.with_suffix('.trtexec.sh')} calls trtexec")
    )


def _number(text):
    try:
        return int(AT_LEAST_1(text))
    except argparse.ArgumentTypeError as error:
        raise UsageError(f"--batch {error}, or `dynamic`") from error
