"""Measure speed and memory; benchmarks/RESULTS.md keeps the results."""

from dinov2_detrex.cli import AT_LEAST_1


def add_common_arguments(parser, repeats=True, model=False):
    """`--device`, and where asked for `--repeats` and `--model`."""
    parser.add_argument("--device", metavar="NAME", help="cpu or cuda; what there is")
    if repeats:
        parser.add_argument("--repeats", type=AT_LEAST_1, default=3, metavar="N", help="the fastest run counts")
    if model:
        default = "vit_base_patch14_dinov2"
        parser.add_argument("--model", dest="model_name", default=default, metavar="NAME", help="a ViT of timm")


def measure(report, args) -> None:
    """Print what runs here and the table of `report(device=..., **args)`."""
    import torch

    from dinov2_detrex.analysis.benchmark import timing
    from dinov2_detrex.runtime.devices import choose_device

    options = {name: value for name, value in vars(args).items() if name not in ("debug", "device")}
    torch.set_num_threads(1)  # so that CPU time is time
    table = report(device=choose_device(args.device, option="--device"), **options)
    print(f"{timing.header()}\n\n{table}")
