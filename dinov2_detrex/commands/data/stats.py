"""Count a data set's objects by class and size: a table for each part, or JSON.

    dinov2-detrex data stats my/folder
    dinov2-detrex data stats my/folder --json > statistics.json

Counted is what training sees, after the check's repairs: crowds are not objects. Sizes are square roots of box areas in
pixels of the original images, with COCO's bounds, 32 and 96.
"""

from dinov2_detrex.cli import add_data_arguments, load_parts


def add_arguments(parser):
    add_data_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print JSON alone")


def run(args):
    parts = load_parts(args)

    import json

    from dinov2_detrex.data.parts import check_parts
    from dinov2_detrex.visualization.dataset_statistics import describe_statistics, statistics_of, summarized

    reports = check_parts(parts)
    for report in reports.values():
        report.raise_if_harmful()
    statistics = {name or "all": statistics_of(report.repaired) for name, report in reports.items()}
    if args.json:
        print(json.dumps({name: summarized(one) for name, one in statistics.items()}, indent=1))
        return
    for name, source in parts.items():
        print(f"{source.path}\n{describe_statistics(statistics[name or 'all'])}\n")
