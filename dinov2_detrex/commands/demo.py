"""Try a detector in a browser: drop a picture, see its objects. On this machine alone unless --host says otherwise.

examples:
  dinov2-detrex demo my_detector                           # a model package, or owner/name on the Hub
  dinov2-detrex demo output/mine                           # a run's folder
  dinov2-detrex demo my_detector.onnx --port 9000          # a file that `export` wrote; its features are not shown
  dinov2-detrex demo my_detector --examples photos/        # pictures to try; a package may bring its own

There is no authentication. The page needs the extra `demo`, and no network.
"""

import os
from pathlib import Path

from dinov2_detrex.cli import AT_LEAST_1, Number


def add_arguments(parser):
    parser.add_argument("detector", metavar="PACKAGE", help="a model package, a run's folder, or an exported file")
    parser.add_argument("--weights", default="", metavar="WHICH", help="of a run: best, final, averaged, or a file")
    parser.add_argument("--examples", default="", metavar="PATH", help="a picture, a folder or a pattern of such")
    parser.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="default: %(default)s")
    parser.add_argument("--port", type=Number(1, 65535), default=7860, metavar="N", help="default: %(default)s")
    parser.add_argument("--max-bytes", type=AT_LEAST_1, default=20_000_000, metavar="N", help="of a picture's file")
    parser.add_argument("--max-pixels", type=AT_LEAST_1, default=50_000_000, metavar="N", help="of a picture")
    parser.add_argument("--device", metavar="NAME", help="cuda, cuda:1, mps or cpu; default: as train.device says")


def run(args):
    from dinov2_detrex.inference import Predictor
    from dinov2_detrex.inference.demo import Demo, create_page, load_gradio, serve

    load_gradio()  # told at once if it is missing
    predictor = Predictor.open(args.detector, args.weights, device=args.device)
    demo = Demo(predictor, args.max_bytes, args.max_pixels)
    page = create_page(demo, os.path.basename(os.path.normpath(args.detector)), _examples(args))
    print(f"http://{args.host}:{args.port}  (Ctrl-C ends it)", flush=True)
    serve(page, demo, args.host, args.port)


def _examples(args):
    """Pictures to try the detector on: the given ones, or those that a package brings."""
    from dinov2_detrex.inference.hub import find_package
    from dinov2_detrex.inference.pictures import files_of
    from dinov2_detrex.runtime.packages import EXAMPLES

    if args.examples:
        return files_of(args.examples)
    there = Path(args.detector)
    brought = (there if there.exists() else find_package(there)) / EXAMPLES
    return files_of(brought) if brought.is_dir() else []
