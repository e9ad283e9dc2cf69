"""Random truths and detections, and what pycocotools makes of them."""

import contextlib
import copy
import io

import numpy as np

CATEGORIES = [{"id": number, "name": f"class {number}"} for number in (3, 7, 12, 90)]  # the last one never occurs


def random_case(
    seed: int, crowds: float = 0.1, ties: bool = True, per_image: int = 12, confused: float = 0.0
) -> tuple[dict, list[dict]]:
    """A truth and detections: images without objects, without detections and without both; objects of all sizes.

    A share `confused` of the detections has another class than it would have had.
    """
    rng = np.random.default_rng(seed)
    images = [{"id": int(number)} for number in rng.permutation(1000)[:25]]
    annotations, results = [], []
    for image in images:
        for _ in range(rng.integers(0, 8)):
            w, h = np.exp(rng.uniform(1, 5.5, 2)).round(1)
            x, y = rng.uniform(0, 300, 2).round(1)
            entry = {"image_id": image["id"], "category_id": int(rng.choice([3, 7, 12])), "bbox": [x, y, w, h]}
            more = {"id": len(annotations) + 1, "area": w * h * 0.8, "iscrowd": int(rng.random() < crowds)}
            annotations.append(entry | more)
            for _ in range(rng.integers(0, 3)):
                moved = [float(v) for v in (x + rng.normal(0, 0.1 * w), y + rng.normal(0, 0.1 * h), w, h)]
                results.append(entry | {"bbox": moved, "score": float(rng.random())})
        for _ in range(rng.integers(0, per_image)):
            box = [float(v) for v in (*rng.uniform(0, 300, 2), *np.exp(rng.uniform(1, 5.5, 2)))]
            category = int(rng.choice([3, 7, 12]))
            results.append({"image_id": image["id"], "category_id": category, "bbox": box, "score": rng.random()})
    wrong = rng.random(len(results)) < confused if confused else []
    for row in (row for row, is_wrong in zip(results, wrong) if is_wrong):
        row["category_id"] = int(rng.choice([3, 7, 12]))
    if ties:
        results = [row | {"score": round(row["score"], 1)} for row in results]
    return {"info": {}, "images": images, "annotations": annotations, "categories": CATEGORIES}, results


def by_pycocotools(truth: dict, results: list[dict], max_dets=(1, 10, 100), img_ids=None):
    """As its own demo calls it, with its printed lines."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        ground = COCO()
        ground.dataset = copy.deepcopy(truth)
        ground.createIndex()
        evaluation = COCOeval(ground, ground.loadRes(copy.deepcopy(results)), "bbox")
        evaluation.params.maxDets = list(max_dets)
        if img_ids is not None:
            evaluation.params.imgIds = img_ids
        evaluation.evaluate()
        evaluation.accumulate()
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        if list(max_dets) == [1, 10, 100]:
            evaluation.summarize()
    return evaluation.eval, printed.getvalue().rstrip("\n")


def plain_iou(a, b) -> float:
    """Of two boxes XYWH."""
    w = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    h = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    inner = max(w, 0) * max(h, 0)
    return inner / (a[2] * a[3] + b[2] * b[3] - inner)
