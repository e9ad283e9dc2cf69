"""A detector's forward and backward, by what is frozen."""

from dinov2_detrex.commands.benchmark import add_common_arguments, measure


def add_arguments(parser):
    add_common_arguments(parser, repeats=False, model=True)


def run(args):
    from dinov2_detrex.analysis.benchmark.memory import report

    measure(report, args)
