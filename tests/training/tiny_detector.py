"""The smallest thing that a detection trainer can train: one box per image, its class, and some randomness."""

import time

import torch
import torch.distributed as dist
from detectron2.structures import Boxes, Instances
from torch import nn


def mean_over_processes(number):
    number = torch.tensor(float(number))
    if dist.is_initialized():
        dist.all_reduce(number)
        number /= dist.get_world_size()
    return number


class TinyDetector(nn.Module):
    """Predicts one box (relative cxcywh) and one class an image from pooled convolution features.

    It has what makes resuming hard: dropout, batch statistics, noise on the targets. The losses are sums over boxes,
    divided by the number of boxes that a process has on average, as DETR's are.

    Args:
        norm: batch normalisation, which two processes cannot do as one does.
        fail_at: call number (from 0) at which the loss becomes `fail_value`; -1 = never.
        pause: seconds that a training step takes at least.
    """

    class_dependent = ("cls",)

    def __init__(
        self, num_classes, width=8, dropout=0.1, noise=0.05, norm=True, fail_at=-1, fail_value=float("nan"), pause=0.0
    ):
        super().__init__()
        self.frozen = nn.Conv2d(3, width, 3, stride=2, padding=1).requires_grad_(False)
        norms = [nn.BatchNorm2d(width)] if norm else []
        self.conv = nn.Sequential(nn.Conv2d(width, width, 3, 2, 1), *norms, nn.ReLU(), nn.Dropout(dropout))
        self.box, self.cls = nn.Linear(width, 4), nn.Linear(width, num_classes)
        self.noise, self.fail_at, self.fail_value, self.pause, self.calls = noise, fail_at, fail_value, pause, 0

    def features(self, batch):
        maps = [self.frozen(x["image"].to(self.box.weight)[None] / 255 - 0.5).mean((2, 3), keepdim=True) for x in batch]
        return self.conv(torch.cat(maps).expand(-1, -1, 4, 4)).mean((2, 3))

    def forward(self, batch):
        features = self.features(batch)
        boxes, logits = self.box(features).sigmoid(), self.cls(features)
        return self.losses(batch, boxes, logits) if self.training else self.instances(batch, boxes, logits)

    def losses(self, batch, boxes, logits):
        time.sleep(self.pause)
        targets, classes, rows = [], [], []
        for row, image in enumerate(batch):
            h, w = image["instances"].image_size
            xyxy = image["instances"].gt_boxes.tensor / torch.tensor([w, h, w, h])
            targets.append(torch.cat([(xyxy[:, :2] + xyxy[:, 2:]) / 2, xyxy[:, 2:] - xyxy[:, :2]], 1))
            classes.append(image["instances"].gt_classes)
            rows += [row] * len(xyxy)
        targets, rows = torch.cat(targets), torch.tensor(rows, dtype=torch.long)
        targets = targets + self.noise * torch.randn_like(targets)
        count = mean_over_processes(len(rows)).clamp(min=1)
        box = (boxes[rows] - targets).abs().sum() / count
        if self.calls == self.fail_at:
            box = box * self.fail_value
        self.calls += 1
        return {
            "loss_class": nn.functional.cross_entropy(logits[rows], torch.cat(classes), reduction="sum") / count,
            "loss_bbox": box,
        }

    def instances(self, batch, boxes, logits):
        results = []
        for image, box, logit in zip(batch, boxes, logits):
            h, w = image["height"], image["width"]
            scale = box.new_tensor([w, h, w, h])
            xyxy = torch.cat([box[:2] - box[2:] / 2, box[:2] + box[2:] / 2]) * scale
            score, label = logit.softmax(-1).max(-1)
            fields = dict(pred_boxes=Boxes(xyxy[None]), scores=score[None], pred_classes=label[None])
            results.append({"instances": Instances((h, w), **fields)})
        return results
