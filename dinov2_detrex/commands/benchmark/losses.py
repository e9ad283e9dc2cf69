"""The losses of all layers at once against a loop over the layers."""

from dinov2_detrex.commands.benchmark import add_common_arguments, measure


def add_arguments(parser):
    add_common_arguments(parser)


def run(args):
    from dinov2_detrex.analysis.benchmark.losses import report

    measure(report, args)
