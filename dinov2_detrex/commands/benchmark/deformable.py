"""The forms of deformable attention against each other."""

from dinov2_detrex.commands.benchmark import add_common_arguments, measure


def add_arguments(parser):
    add_common_arguments(parser)


def run(args):
    from dinov2_detrex.analysis.benchmark.deformable import report

    measure(report, args)
