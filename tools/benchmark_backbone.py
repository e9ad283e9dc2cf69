#!/usr/bin/env python
"""What windows cost less, and freezing spares: `python tools/benchmark_backbone.py [--what attention memory]`."""

import argparse
import importlib.util
import sys
from pathlib import Path

if importlib.util.find_spec("dinov2_detrex") is None:  # a checkout that is not installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import dinov2_detrex  # noqa: E402, F401  makes detectron2 importable

# isort: split
import torch  # noqa: E402
from detectron2.config import LazyConfig, instantiate  # noqa: E402
from detectron2.structures import Boxes, Instances  # noqa: E402

from dinov2_detrex import env  # noqa: E402
from dinov2_detrex.backbone import benchmark  # noqa: E402
from dinov2_detrex.config import recipes_dir  # noqa: E402

RECIPE = recipes_dir() / "projects/dino_dinov2/configs/COCO/dino_dinov2_b_12ep.py"
TRAINING = {
    "trained": {"freeze": False},
    "trained, activation checkpointing": {"use_act_checkpoint": True, "freeze": False},
    "first 9 blocks frozen": {"freeze": 9},
    "frozen": {"freeze": True},
}


def build_detector(settings: dict) -> tuple[torch.nn.Module, list[dict]]:
    """The COCO recipe's detector with random weights, and one random 592-pixel image with three boxes."""
    config = LazyConfig.load(str(RECIPE)).model
    config.backbone.net = {**config.backbone.net, "pretrained": False, **settings}
    side = 592
    boxes = torch.tensor([[10.0, 20, 200, 300], [300, 300, 500, 560], [50, 400, 120, 480]])
    instances = Instances((side, side), gt_boxes=Boxes(boxes), gt_classes=torch.tensor([0, 5, 9]))
    image = torch.randint(0, 256, (3, side, side)).float()
    return instantiate(config), [{"image": image, "instances": instances, "height": side, "width": side}]


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure windowed attention by image size, and memory by freezing.")
    parser.add_argument("--what", nargs="+", choices=("attention", "memory"), default=["attention", "memory"])
    parser.add_argument("--window-size", type=int, default=11, help="cells a side; 11 tiles the grid of 518 pixels")
    parser.add_argument("--depth", type=int, default=2, help="blocks that are timed")
    parser.add_argument("--repeats", type=int, default=3, help="the fastest run counts")
    parser.add_argument("--model", default="vit_base_patch14_dinov2", metavar="NAME", help="a ViT of timm")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("\n".join(f"{name}: {value}" for name, value in env.describe()), "\n")
    if "attention" in args.what:
        rows = benchmark.attention_rows(benchmark.SIZES_PX, args.depth, args.window_size, args.repeats, args.model)
        print(benchmark.as_table(rows), "\n")
    if "memory" in args.what:
        variants = {name: {**settings, "model_name": args.model} for name, settings in TRAINING.items()}
        print(benchmark.as_table(benchmark.memory_rows(build_detector, variants)))


if __name__ == "__main__":
    main()
