"""Say what a data set holds and what is wrong with it; exit status 1 where something is harmful.

    dinov2-detrex data check my/folder
    dinov2-detrex data check --config-file RECIPE data.path=my/folder

A folder in COCO's, YOLO's or Pascal VOC's form with all its parts, FOLDER#train for one of them, a JSON, or several of
these, which are joined. With a config, the data sets that it trains and evaluates on.
"""

from dinov2_detrex.cli import add_data_arguments, load_parts

_SHOWN = 20  # errors of a part


def add_arguments(parser):
    add_data_arguments(parser)
    parser.add_argument("--skip-bad-images", action="store_true", help="as the recipe's option of this name")


def run(args):
    parts = load_parts(args)

    from dinov2_detrex.data.parts import check_parts
    from dinov2_detrex.training.datasets import describe_parts

    print(f"found {describe_parts(parts)}")
    reports = check_parts(parts, args.skip_bad_images)
    for report in reports.values():
        print("\n".join([report.summary(), *(f"  error: {finding}" for finding in report.harmful[:_SHOWN])]))
        if len(report.harmful) > _SHOWN:
            print(f"  and {len(report.harmful) - _SHOWN} more errors")
    return 1 if any(report.harmful for report in reports.values()) else 0
