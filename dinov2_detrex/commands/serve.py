"""Try a detector over HTTP: POST an image to /detect, get JSON. On this machine alone unless --host says otherwise.

examples:
  dinov2-detrex serve my_detector
  dinov2-detrex serve my_detector.onnx --port 9000
  curl --data-binary @photo.jpg 'http://127.0.0.1:8000/detect?score_threshold=0.5'
  curl http://127.0.0.1:8000/health; curl http://127.0.0.1:8000/metrics

There is no authentication. For production let Triton or OpenVINO Model Server serve what `export` writes.
"""

from dinov2_detrex.cli import AT_LEAST_1, Number


def add_arguments(parser):
    parser.add_argument("detector", metavar="PACKAGE", help="a model package, a run's folder, or an exported file")
    parser.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="default: %(default)s")
    parser.add_argument("--port", type=Number(1, 65535), default=8000, metavar="N", help="default: %(default)s")
    parser.add_argument("--max-bytes", type=AT_LEAST_1, default=20_000_000, metavar="N", help="of a request")
    parser.add_argument("--max-waiting", type=AT_LEAST_1, default=32, metavar="N", help="requests that may wait")
    parser.add_argument("--max-batch", type=AT_LEAST_1, default=4, metavar="N", help="pictures at a time")
    parser.add_argument("--timeout", type=Number(1, 3600), default=60, metavar="S", help="seconds until an answer")


def run(args):
    from dinov2_detrex.inference import Predictor
    from dinov2_detrex.inference.serving import Limits, create_app
    from dinov2_detrex.runtime.extras import needed

    uvicorn = needed("uvicorn", "serving", "serve")
    predictor = Predictor.open(args.detector)
    limits = Limits(args.max_bytes, max_waiting=args.max_waiting, timeout_s=args.timeout, max_batch=args.max_batch)
    uvicorn.run(create_app(predictor, limits, args.detector), host=args.host, port=args.port, log_level="warning")
