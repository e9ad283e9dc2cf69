"""Train a linear classifier on frozen patch features: does this patch lie on an object? No config, no detector.

    dinov2-detrex data shapes
    python examples/patch_classifier.py datasets/shapes --pretrained

It shows the backbone alone: `TimmBackbone` gives one vector for each patch, and labels for the patches come from COCO's
boxes. Without --pretrained the ViT is random, and its features tell little more than colours.
"""

import argparse
import json
from pathlib import Path

import torch
import torch.nn.functional as F

from dinov2_detrex import TimmBackbone
from dinov2_detrex.data import read_image

SIDE_PX = 224  # of the images that the ViT sees: 16 x 16 patches of 14 pixels


def read_part(root: Path, part: str, most: int):
    """(pixels (3, 224, 224) in 0..1, boxes (N, 4) XYXY relative to the image) of the first images of a part."""
    document = json.loads((root / "annotations" / f"instances_{part}.json").read_text())
    boxes_of: dict[int, list] = {}
    for annotation in document["annotations"]:
        boxes_of.setdefault(annotation["image_id"], []).append(annotation["bbox"])
    for image in document["images"][:most]:
        pixels = torch.from_numpy(read_image(root / part / image["file_name"], "RGB").copy()).permute(2, 0, 1) / 255
        pixels = F.interpolate(pixels[None], (SIDE_PX, SIDE_PX), mode="bilinear", antialias=True)[0]
        x, y, width, height = torch.tensor(boxes_of.get(image["id"], []), dtype=torch.float32).reshape(-1, 4).T
        sizes = torch.tensor([image["width"], image["height"]] * 2)
        yield pixels, torch.stack([x, y, x + width, y + height], dim=1) / sizes


def patch_labels(boxes: torch.Tensor, cells: int) -> torch.Tensor:
    """(cells, cells) of 0 and 1: whether the centre of a patch lies in one of the boxes."""
    centres = (torch.arange(cells) + 0.5) / cells
    inside_x = (centres > boxes[:, 0:1]) & (centres < boxes[:, 2:3])  # (N, cells)
    inside_y = (centres > boxes[:, 1:2]) & (centres < boxes[:, 3:4])
    return (inside_y[:, :, None] & inside_x[:, None, :]).any(0).float()


@torch.no_grad()
def features_and_labels(backbone: TimmBackbone, root: Path, part: str, most: int):
    """(patches, C) features and (patches,) labels of a part."""
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    features, labels = [], []
    for pixels, boxes in read_part(root, part, most):
        image = (pixels - mean[:, None, None]) / std[:, None, None]
        feature_map = backbone(image[None])["p-1"][0]  # (C, 16, 16)
        features.append(feature_map.flatten(1).T)
        labels.append(patch_labels(boxes, feature_map.shape[-1]).flatten())
    return torch.cat(features), torch.cat(labels)


def fit(features: torch.Tensor, labels: torch.Tensor, steps: int = 200) -> torch.nn.Linear:
    """A logistic regression, by gradient descent on all patches at once."""
    torch.manual_seed(0)
    classifier = torch.nn.Linear(features.shape[1], 1)
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=1e-2, weight_decay=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(classifier(features)[:, 0], labels).backward()
        optimizer.step()
    return classifier


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="a data set in COCO's layout")
    parser.add_argument("--model", default="vit_small_patch14_dinov2.lvd142m", help="a ViT of timm")
    parser.add_argument("--pretrained", action="store_true", help="load timm's weights")
    parser.add_argument("--images", type=int, default=64, help="of each part")
    args = parser.parse_args()

    backbone = TimmBackbone(args.model, pretrained=args.pretrained, out_indices=(-1,), norm=True, freeze=True).eval()
    features, labels = features_and_labels(backbone, args.root, "train", args.images)
    classifier = fit(features, labels)
    features, labels = features_and_labels(backbone, args.root, "val", args.images)
    right = ((classifier(features)[:, 0] > 0) == labels.bool()).float().mean()
    usual = max(labels.mean(), 1 - labels.mean())
    print(f"{len(labels)} held-out patches: {right:.1%} right; {usual:.1%} would be by always saying the commoner")


if __name__ == "__main__":
    main()
