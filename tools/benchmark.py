#!/usr/bin/env python
"""What this project's parts cost, measured: `python tools/benchmark.py windows|memory|deformable|losses|step`."""

import argparse
import importlib.util
import sys
from pathlib import Path

if importlib.util.find_spec("dinov2_detrex") is None:  # a checkout that is not installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import dinov2_detrex  # noqa: E402, F401  makes detectron2 importable

# isort: split
import torch  # noqa: E402

from dinov2_detrex.benchmark import MEASUREMENTS, step, timing, windows  # noqa: E402
from dinov2_detrex.runtime.devices import choose_device  # noqa: E402
from dinov2_detrex.runtime.errors import UserError  # noqa: E402


def arguments(argv: list[str] | None) -> dict:
    """What to measure as `what`, and the keyword arguments of that measurement's `report`."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--device", metavar="NAME", help="cpu or cuda; what there is")
    parser = argparse.ArgumentParser(description="Measure speed and memory; benchmarks/RESULTS.md keeps the results.")
    kinds = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    added = {name: kinds.add_parser(name, parents=[common], help=text) for name, text in DESCRIPTIONS.items()}
    for name in ("windows", "deformable", "losses", "step"):
        added[name].add_argument("--repeats", type=int, default=3, metavar="N", help="the fastest run counts")
    for name in ("windows", "memory"):
        option = {"dest": "model_name", "default": "vit_base_patch14_dinov2", "metavar": "NAME"}
        added[name].add_argument("--model", help="a ViT of timm", **option)
    added["windows"].add_argument("--window-size", type=int, default=11, help="cells a side; 11 tiles 518 pixels")
    added["windows"].add_argument("--depth", type=int, default=2, help="blocks that are timed")
    added["windows"].add_argument("--sizes", dest="sizes_px", type=int, nargs="+", default=windows.SIZES_PX)
    added["step"].add_argument("--config-file", default=step.RECIPE, metavar="FILE", help="any training config")
    added["step"].add_argument("--size", dest="image_hw", type=int, nargs=2, default=(128, 128), metavar=("H", "W"))
    added["step"].add_argument("--batch", type=int, default=0, metavar="N", help="images; the config's own number")
    added["step"].add_argument("--boxes", dest="boxes_per_image", type=int, default=3, metavar="N", help="of an image")
    added["step"].add_argument("overrides", nargs="*", metavar="key=value", help="changes to the config")
    return vars(parser.parse_args(argv))


DESCRIPTIONS = {
    "windows": "windowed against global attention, by image size",
    "memory": "a detector's forward and backward, by what is frozen",
    "deformable": "the forms of deformable attention against each other",
    "losses": "the losses of all layers at once against a loop over the layers",
    "step": "one training step and one evaluation forward, by part",
}


def main(argv: list[str] | None = None) -> int:
    options = arguments(argv)
    what, device_name = options.pop("what"), options.pop("device")
    torch.set_num_threads(1)  # so that CPU time is time
    try:
        device = choose_device(device_name)
        table = MEASUREMENTS[what](device=device, **options)
    except (UserError, ValueError, RuntimeError) as error:
        print("error:", "; ".join(map(str.strip, str(error).splitlines())), file=sys.stderr)
        return 1
    print(f"{timing.header()}\n\n{table}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
