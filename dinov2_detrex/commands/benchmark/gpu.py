"""Does it work on this machine's GPU, and how fast? One report in Markdown, to be pasted into an issue.

Deformable attention (right, and how fast beside other forms), detectors in images a second, waits, DDP and FSDP2.
"""

from dinov2_detrex.cli import AT_LEAST_1, PIXELS


def add_arguments(parser):
    parser.add_argument("--device", default="cuda", metavar="NAME", help="cuda; cpu tries the report itself, slowly")
    parser.add_argument("--repeats", type=AT_LEAST_1, default=10, metavar="N", help="the fastest run counts")
    parser.add_argument("--sizes", type=PIXELS, nargs="+", default=(518, 800, 1024), metavar="PIXELS")
    parser.add_argument("--models", nargs="+", default=("S", "B", "L"), metavar="S|B|L|CONFIG")
    parser.add_argument("--batch", type=AT_LEAST_1, default=2, metavar="N", help="images at once")
    parser.add_argument("--output", metavar="FILE", help="write the report here as well")


def run(args):
    import torch

    from dinov2_detrex.analysis.gpu_check import report
    from dinov2_detrex.runtime import files
    from dinov2_detrex.runtime.devices import choose_device

    device = choose_device(args.device, option="--device")
    if device.type == "cpu":
        torch.set_num_threads(1)
    text = report(device, args.repeats, args.sizes, args.models, args.batch)
    print(text)
    if args.output:
        files.write_text(args.output, text + "\n")
