"""Draw what the blocks of a ViT see in a picture: three principal components of all maps as red, green and blue.

    python examples/draw_features.py output/dino_dinov2_tiny_shapes picture.jpg
    python examples/draw_features.py dino_dinov2_b_12ep picture.jpg --output features.png     # timm's weights

The first argument is a run, a model package or a recipe; of a run, the best or newest weights are taken.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dinov2_detrex.backbone import TimmBackbone
from dinov2_detrex.config import num_blocks
from dinov2_detrex.config.loading import find_config, load
from dinov2_detrex.data import read_image
from dinov2_detrex.inference.runs import choose_weights, find_run
from dinov2_detrex.runtime.errors import UserError
from dinov2_detrex.runtime.packages import is_package

TILE_PX = 256


def build_backbone(config: str, overrides: list[str]) -> tuple[TimmBackbone, list[int]]:
    """The ViT of a config with its trained weights, and the up to four blocks whose maps it returns."""
    net = load(config, overrides).model.backbone.net
    depth = num_blocks(net)
    blocks = [round((i + 1) * depth / 4) - 1 for i in range(4)] if depth >= 4 else list(range(depth))
    net.out_indices = blocks
    trained = weights_of(find_config(config))
    if trained:
        net.pretrained, net.checkpoint_path = False, str(trained)
    return TimmBackbone(**{str(name): value for name, value in net.items() if name != "_target_"}).eval(), blocks


def weights_of(config_file: Path) -> Path | None:
    """The trained weights that lie beside a config; None for a recipe."""
    if is_package(config_file.parent):
        return config_file.parent / "model.safetensors"
    try:
        return choose_weights(find_run(config_file)).file
    except UserError:
        return None


def to_input(picture: Image.Image, cells: int, patch_px: int) -> torch.Tensor:
    """(1, 3, h, w), normalised as ImageNet is, with `cells` patches on the longer side."""
    scale = cells * patch_px / max(picture.size)
    size = [max(1, round(side * scale / patch_px)) * patch_px for side in picture.size]
    pixels = torch.from_numpy(np.asarray(picture.resize(size, Image.Resampling.BICUBIC), dtype=np.float32))
    mean, std = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
    return ((pixels - mean) / std).permute(2, 0, 1)[None]


def as_colours(maps: list[torch.Tensor]) -> list[Image.Image]:
    """Each (1, C, H, W) map by its own three principal components, turned to agree with the map before."""
    pictures, before = [], None
    for features in maps:
        cells = features[0].flatten(1).T  # C H W -> HW C
        centred = cells - cells.mean(0)
        projected = centred @ torch.linalg.svd(centred, full_matrices=False).Vh[:3].T
        if before is not None:  # the sign of a component is arbitrary
            projected = projected * torch.where((projected * before).sum(0) < 0, -1.0, 1.0)
        before = projected
        low, high = projected.quantile(torch.tensor([0.02, 0.98]), dim=0)
        colours = ((projected - low) / (high - low)).clamp(0, 1).unflatten(0, features.shape[-2:])
        pictures.append(Image.fromarray((colours * 255).byte().numpy()))
    return pictures


def row_of(pictures: list[Image.Image]) -> Image.Image:
    """Pictures beside each other, all of one height."""
    tiles = [
        one.resize((round(TILE_PX * one.width / one.height), TILE_PX), Image.Resampling.NEAREST) for one in pictures
    ]
    row = Image.new("RGB", (sum(tile.width + 8 for tile in tiles) - 8, TILE_PX), "white")
    left = 0
    for tile in tiles:
        row.paste(tile, (left, 0))
        left += tile.width + 8
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="a run, a model package or a recipe")
    parser.add_argument("picture")
    parser.add_argument("overrides", nargs="*", help="changes to the config, key=value")
    parser.add_argument("--cells", type=int, default=32, help="patches on the longer side")
    parser.add_argument("--output", default="output/features.png")
    args = parser.parse_args()

    picture = Image.fromarray(read_image(args.picture, "RGB"))
    backbone, blocks = build_backbone(args.config, args.overrides)
    with torch.inference_mode():
        maps = list(backbone(to_input(picture, args.cells, backbone.size_divisibility)).values())
    Path(args.output).parent.mkdir(parents=True, exist_ok=True)
    row_of([picture, *as_colours(maps)]).save(args.output)
    print(f"{args.output}: the picture, then blocks {', '.join(map(str, blocks))}, counted from 0")


if __name__ == "__main__":
    main()
