"""Train or evaluate a detector.

examples, with `dinov2-detrex train` or `python tools/train_net.py`:
  by name:       dinov2-detrex train dino_dinov2_tiny_shapes
  by file:       dinov2-detrex train --config-file projects/dino_dinov2/configs/COCO/dino_dinov2_b_12ep.py
  eight GPUs:    dinov2-detrex train --config-file ... --num-gpus 8
  two machines:  dinov2-detrex train --config-file ... --num-gpus 8 --num-machines 2 --machine-rank 0 \\
                     --dist-url tcp://HOST:PORT
  torchrun:      torchrun --nproc-per-node 8 tools/train_net.py --config-file ...
  overrides:     dinov2-detrex train --config-file ... train.max_iter=100 'data.names=[a,b]' +note=mine ~optimizer.betas
"""

from dinov2_detrex.cli import AT_LEAST_0, AT_LEAST_1, add_config_arguments, run_command, take_config


def add_arguments(parser):
    """detectron2's flags; overrides may stand before, between or after them."""
    add_config_arguments(parser)
    parser.add_argument("--resume", action="store_true", help="continue from the newest checkpoint of the output dir")
    parser.add_argument("--eval-only", action="store_true", help="evaluate train.init_checkpoint, once")
    parser.add_argument(
        "--num-gpus", type=AT_LEAST_1, default=1, metavar="N", help="processes per machine, one GPU each"
    )
    parser.add_argument("--num-machines", type=AT_LEAST_1, default=1, metavar="N")
    parser.add_argument("--machine-rank", type=AT_LEAST_0, default=0, metavar="N", help="of this machine, from 0")
    parser.add_argument("--dist-url", default="auto", metavar="URL", help="tcp://HOST:PORT of machine 0")
    parser.add_argument("--no-report", action="store_true", help="do not write a report at the end of a training")


def run(args):
    from dinov2_detrex.training.cli import train

    take_config(args)
    try:
        return train(args, None if args.no_report or args.eval_only else _report)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the same command with --resume continues from the last checkpoint") from None


def _report(output_dir):
    """Write the report; what keeps it from being written is one line, since the run itself has ended well."""
    from pathlib import Path

    from dinov2_detrex.runtime.errors import one_line

    try:
        from dinov2_detrex.analysis.report import read_inputs, write_report
        from dinov2_detrex.runtime.packages import REPORT

        page = write_report(read_inputs(Path(output_dir)), Path(output_dir) / REPORT)
        print(f"report: {page}", flush=True)
    except (Exception, KeyboardInterrupt) as error:  # of whatever kind: nothing of the run is lost by it
        print(f"no report was written ({one_line(error)}); `dinov2-detrex report {output_dir}` tries again", flush=True)


def main() -> int:
    """The command `dinov2-detrex-train`."""
    return run_command("train")
