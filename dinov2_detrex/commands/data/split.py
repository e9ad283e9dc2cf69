"""Split a data set by seed into parts with the same share of every class.

    dinov2-detrex data split my/folder --fractions 0.8 0.2 --output-dir my/parts
    dinov2-detrex data split my/folder#train --fractions 0.7 0.2 0.1 --to list --output-dir my/lists

The parts are written as a new folder in COCO's, YOLO's or VOC's form, or as lists of images. Which image goes where
depends on the names, the classes and the seed alone, and the table that is printed says how it came out. A training run
can do the same without writing anything: data.split=0.2.
"""

from dinov2_detrex.cli import SEED, SHARE, add_data_arguments, add_writing_arguments, load_parts
from dinov2_detrex.runtime.errors import UsageError

NAMES = ("train", "val", "test")


def add_arguments(parser):
    add_data_arguments(parser)
    parser.add_argument("--fractions", type=SHARE, nargs="+", default=[0.8, 0.2], metavar="F", help="0.8 0.2")
    parser.add_argument("--seed", type=SEED, default=0)
    add_writing_arguments(parser, forms="coco, yolo, voc or list", default="coco")


def run(args):
    names = _names(args.fractions)
    parts = load_parts(args)

    from dinov2_detrex.data import conversion
    from dinov2_detrex.data.check import check_source
    from dinov2_detrex.data.splitting import describe_shares, select, split_images

    if len(parts) > 1:
        raise UsageError(f"the data set is in parts already: {', '.join(parts)}; name the one to split as FOLDER#PART")
    (source,) = parts.values()
    if args.to != "list":
        conversion.writable_format(args.to)
    conversion.require_new(args.output_dir)
    report = check_source(source)
    print(report.summary())
    whole = conversion.checked(report, source)
    shares = split_images(whole.document, args.fractions, args.seed)
    documents = {name: select(whole.document, share) for name, share in zip(names, shares)}
    print(describe_shares(documents))
    sound = {name: conversion.Checked(document, whole.image_root) for name, document in documents.items()}
    if args.to == "list":
        conversion.write_lists(sound, args.output_dir)
    else:
        for what, count in conversion.write_folder(sound, args.to, args.output_dir, args.images).items():
            print(f"{count} {what}")
    print(f"written to {args.output_dir}")


def _names(fractions: list[float]) -> tuple[str, ...]:
    """A name for each part; a UsageError for fractions that are none of a whole."""
    shown = " ".join(f"{fraction:g}" for fraction in fractions)
    if not 2 <= len(fractions) <= len(NAMES):
        raise UsageError(f"--fractions {shown}: expected are two or three, for {', '.join(NAMES)}")
    if not all(fraction > 0 for fraction in fractions) or abs(sum(fractions) - 1) > 1e-6:
        raise UsageError(f"--fractions {shown}: each must be above 0, and their sum 1")
    return NAMES[: len(fractions)]
