"""Make a model package of a run: a folder with weights, config, class names and a card, to hand on.

examples:
  dinov2-detrex package output/mine                               # into output/mine/package
  dinov2-detrex package output/mine --out my_detector --weights averaged --license apache-2.0
  dinov2-detrex package RECIPE key=value --weights detrex.pth --out my_detector      # a checkpoint and its config
  dinov2-detrex package output/mine --push owner/name             # and send it to the Hugging Face Hub
"""

from pathlib import Path

from dinov2_detrex.cli import add_config_arguments, load_config


def add_arguments(parser):
    add_config_arguments(parser, metavar="RUN|key=value")
    parser.add_argument("--out", metavar="FOLDER", help="default: package in the run's folder")
    parser.add_argument(
        "--weights",
        default="",
        metavar="WHICH",
        help="best (model_best.pth, the default), final (the newest), averaged (by train.model_ema), or a file",
    )
    parser.add_argument("--license", metavar="ID", help="of the weights; default: the pretrained backbone's, if known")
    thresholds = '{"default": 0.3, "by_class": {"name": 0.4}}; default: those of the run\'s report, if any'
    parser.add_argument("--thresholds", metavar="JSON", help=thresholds)
    parser.add_argument("--examples", nargs="+", default=[], metavar="PICTURE", help="pictures that go with it")
    parser.add_argument("--push", metavar="OWNER/NAME", help="send the package to the Hugging Face Hub as well")
    parser.add_argument("--public", action="store_true", help="make the repository of --push public")


def run(args):
    cfg = load_config(args)

    from dinov2_detrex.config.loading import find_config
    from dinov2_detrex.inference.hub import push_to_hub
    from dinov2_detrex.inference.packaging import make_package, reported_thresholds
    from dinov2_detrex.inference.runs import file_or_choice

    trained = file_or_choice(find_config(args.config_file), args.weights)
    folder = Path(args.out) if args.out else trained.file.parent / "package"
    facts = make_package(
        cfg,
        trained,
        folder,
        name=folder.resolve().name if args.out else folder.resolve().parent.name,
        license=args.license,
        thresholds=_read_thresholds(args.thresholds) or reported_thresholds(trained),
        examples=[Path(picture) for picture in args.examples],
    )
    kind = "averaged weights" if facts["weights"]["averaged"] else "weights"
    ap = facts["metrics"].get("bbox/AP")
    print(f"{folder}: {kind} of {trained.file}" + ("" if ap is None else f", AP {ap:.2f}"))
    if args.push:
        print(f"sent: {push_to_hub(folder, args.push, private=not args.public)}")


def _read_thresholds(path):
    import json

    from dinov2_detrex.runtime.errors import UsageError

    if path is None:
        return None
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"--thresholds {path} is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise UsageError(f'--thresholds {path} holds no object like {{"default": 0.3, "by_class": {{}}}}')
    return content
