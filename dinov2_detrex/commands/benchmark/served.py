"""A bounded load test of `dinov2-detrex serve`: latency and pictures a second of some clients at once, on loopback.

examples:
  dinov2-detrex benchmark served my_detector
  dinov2-detrex benchmark served my_detector --clients 1 4 16 --seconds 20 --image photo.jpg
  dinov2-detrex benchmark served my_detector --clients 16 --max-waiting 4     # how many are turned away

The server is started in a process of its own and ended again; every client sends its next picture when the last is
answered. The predictor alone, on the same picture, comes first. Wants an idle machine and the extra `serve`.
"""

from dinov2_detrex.cli import AT_LEAST_1, Number


def add_arguments(parser):
    parser.add_argument("detector", metavar="PACKAGE", help="a model package, a run's folder, or an exported file")
    parser.add_argument("--clients", nargs="+", type=Number(1, 256), default=[1, 4, 16], metavar="N", help="at once")
    parser.add_argument("--seconds", type=Number(1, 3600), default=20, metavar="S", help="of each number of clients")
    parser.add_argument("--image", metavar="FILE", help="the picture that is sent; a drawn one without")
    parser.add_argument("--max-waiting", type=AT_LEAST_1, default=32, metavar="N", help="as of serve")
    parser.add_argument("--max-batch", type=AT_LEAST_1, default=4, metavar="N", help="as of serve")


def run(args):
    from dinov2_detrex.analysis.benchmark.timing import header
    from dinov2_detrex.inference.load_test import report

    flags = ["--max-waiting", str(args.max_waiting), "--max-batch", str(args.max_batch)]
    table = report(args.detector, args.clients, args.seconds, args.image, flags)
    print(f"{header()}\n\n{table}")
