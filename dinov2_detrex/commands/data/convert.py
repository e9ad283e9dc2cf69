"""Write a data set in another form, as a new folder with its images.

    dinov2-detrex data convert my/folder --to yolo --output-dir my/folder-yolo

It is checked first: what is harmless is repaired and counted, anything harmful ends the command. Boxes, class names and
their order stay as they are; boxes are rounded to 1e-4 pixels at most. YOLO has no crowds, VOC no boxes of a pixel's
width, both no masks: what is left out is counted. The new folder appears complete or not at all, and is never one that
holds something already.
"""

from dinov2_detrex.cli import add_data_arguments, add_writing_arguments, load_parts


def add_arguments(parser):
    add_data_arguments(parser)
    add_writing_arguments(parser, forms="coco, yolo or voc")
    parser.add_argument("--skip-bad-images", action="store_true", help="leave out images that cannot be read")


def run(args):
    parts = load_parts(args)

    from dinov2_detrex.data.conversion import checked, convertible, require_new, writable_format, write_folder
    from dinov2_detrex.data.parts import check_parts
    from dinov2_detrex.training.datasets import describe_parts

    writable_format(args.to)
    require_new(args.output_dir)
    print(f"found {describe_parts(parts)}")
    usual = convertible(parts)
    left_out = [source.path for name, source in parts.items() if name not in usual]
    if left_out:
        print(f"left out, and converted when named: {', '.join(left_out)}")
    parts = usual
    reports = check_parts(parts, args.skip_bad_images)
    for report in reports.values():
        print(report.summary())
    sound = {name: checked(reports[name], source) for name, source in parts.items()}
    for what, count in write_folder(sound, args.to, args.output_dir, args.images).items():
        print(f"{count} {what}")
    print(f"written to {args.output_dir}")
