"""Write a report on a run: a page of curves, AP, thresholds, confusions, errors, probable label errors and costs.

examples:
  dinov2-detrex report output/mine                                # output/mine/report/report.html
  dinov2-detrex report output/mine --weights final                # evaluate these weights first
  dinov2-detrex report output/mine --data my/folder --out my_report      # evaluate on other data first
  dinov2-detrex report detectron2_run --data my/val.json --images my/images

The page needs no other file; its pictures and numbers lie beside it as PNG and JSON. The detections are those that the
run left: of its best weights, else of its last evaluation. A run of detectron2 or detrex, whose config is not one of
this project, is reported on with its own detections and --data as the truth.
"""

from pathlib import Path

from dinov2_detrex.runtime.errors import UsageError


def add_arguments(parser):
    parser.add_argument("run", metavar="RUN", help="a run's folder")
    parser.add_argument("--data", metavar="PATH", help="a folder (or FOLDER#part) of a known format, or a JSON file")
    parser.add_argument("--images", metavar="FOLDER", help="of the images that a JSON file of --data lists")
    parser.add_argument("--weights", default="", metavar="WHICH", help="evaluate best, final, or a file, first")
    parser.add_argument("--out", metavar="DIR", help="default: report in the run's folder")


def run(args):
    if args.images and not args.data:
        raise UsageError("--images goes with --data")

    from dinov2_detrex.analysis.report import read_inputs, write_report
    from dinov2_detrex.runtime.packages import REPORT

    run_folder = Path(args.run)
    out = Path(args.out) if args.out else run_folder / REPORT
    results, weights = _evaluated(args, run_folder, out) if _must_evaluate(args, run_folder) else (None, "")
    inputs = read_inputs(run_folder, args.data, args.images, results, weights)
    print(write_report(inputs, out))


def _must_evaluate(args, run_folder):
    """Other weights or data than the run's detections are of, and a run whose weights this project can evaluate."""
    from dinov2_detrex.config.loading import load
    from dinov2_detrex.runtime.errors import UserError

    if not args.weights and not args.data:
        return False
    try:
        load(str(run_folder), [])
    except UserError:
        if args.weights:
            raise
        return False
    return bool(args.weights) or any(run_folder.glob("*.pth"))


def _evaluated(args, run_folder, out):
    """(file of the detections, whose they are)."""
    import argparse

    from dinov2_detrex.evaluation.coco import RESULTS_FILE
    from dinov2_detrex.inference.evaluating import evaluation_overrides
    from dinov2_detrex.inference.runs import BEST, BEST_FILE, FINAL
    from dinov2_detrex.runtime.errors import UserError
    from dinov2_detrex.training.cli import train

    folder = out / "evaluation"
    overrides = evaluation_overrides(str(run_folder), [], str(folder), args.weights, args.data, args.images)
    asked = argparse.Namespace(config_file=str(run_folder), overrides=overrides, resume=False, eval_only=True)
    asked.num_gpus, asked.num_machines, asked.machine_rank, asked.dist_url = 1, 1, 0, "auto"
    if status := train(asked):
        raise UserError(f"the evaluation ended with the status {status}")
    return folder / RESULTS_FILE, args.weights or (BEST if (run_folder / BEST_FILE).is_file() else FINAL)
