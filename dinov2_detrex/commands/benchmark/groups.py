"""A detector's forward and backward, by its groups of training queries and the layers in its pyramid."""

from dinov2_detrex.commands.benchmark import add_common_arguments, measure


def add_arguments(parser):
    add_common_arguments(parser, repeats=False)


def run(args):
    from dinov2_detrex.analysis.benchmark.groups import report

    measure(report, args)
