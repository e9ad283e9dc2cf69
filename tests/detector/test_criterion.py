"""The losses of all layers at once equal a plain loop over layers, images and queries."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from tiny_dino import BASE_WEIGHTS, weight_dict
from torchvision import ops

from dinov2_detrex.detector import DINOCriterion, HungarianMatcher, box_cxcywh_to_xyxy
from dinov2_detrex.detector.loss_names import spelled_out, weighted
from dinov2_detrex.detector.targets import pad_targets

NUM_CLASSES, NUM_QUERIES, COUNTS = 4, 6, (2, 0, 3)
GROUPS, GROUP_SIZE = 2, 6  # 2 groups of 3 positives and 3 negatives


def random_outputs(generator, num_queries, num_layers=3, width=NUM_CLASSES):
    layers = [
        {
            "pred_logits": torch.randn(len(COUNTS), num_queries, width, generator=generator),
            "pred_boxes": torch.rand(len(COUNTS), num_queries, 4, generator=generator) * 0.4 + 0.3,
        }
        for _ in range(num_layers)
    ]
    return {**layers[-1], "aux_outputs": layers[:-1]}


def random_case(width=NUM_CLASSES):
    generator = torch.Generator().manual_seed(2)
    outputs = random_outputs(generator, NUM_QUERIES, width=width)
    proposals = random_outputs(generator, NUM_QUERIES, num_layers=1, width=width)
    outputs["enc_outputs"] = {key: proposals[key] for key in ("pred_logits", "pred_boxes")}
    targets = [
        {
            "labels": torch.randint(1, NUM_CLASSES, (n,), generator=generator),
            "boxes": torch.rand(n, 4, generator=generator) * 0.4 + 0.3,
        }
        for n in COUNTS
    ]
    denoised = random_outputs(generator, GROUPS * GROUP_SIZE, width=width)
    return outputs, targets, {"dn_num": GROUPS, "single_padding": GROUP_SIZE, "output_known_lbs_bboxes": denoised}


def plain_quality(kind, p, iou):
    """(target, weight, factor of the background) of a matched logit, by the papers; alpha 0.25."""
    return {
        "ia_bce_loss": (p**0.25 * iou**0.75, 1.0, 1.0),
        "mal_loss": (iou**2, 1.0, 1.0),
        "varifocal_loss": (iou, iou, 0.75),
    }[kind]


def plain_quality_loss(logits, classes, ious, kind):
    """Logit by logit; `ious` says for each query the overlap of its box with its object, `classes` which object."""
    total = torch.zeros(())
    for query, class_of_query in enumerate(classes.tolist()):
        for k, x in enumerate(logits[query]):
            p = x.detach().sigmoid()
            target, weight, background = plain_quality(kind, p, ious[query])
            if k == class_of_query:
                total = total - weight * (target * F.logsigmoid(x) + (1 - target) * F.logsigmoid(-x))
            else:
                total = total - background * x.sigmoid() ** 2 * F.logsigmoid(-x)
    return total


def plain_losses(output, targets, pairs, normaliser, kind="focal_loss"):
    """Losses of one prediction, image by image."""
    total = {"loss_class": 0.0, "loss_bbox": 0.0, "loss_giou": 0.0}
    classes = torch.full(output["pred_logits"].shape[:2], NUM_CLASSES)
    for image, (query, target) in enumerate(pairs):
        logits, wanted = output["pred_logits"][image], targets[image]
        classes[image, query] = wanted["labels"][target]
        onehot = F.one_hot(classes[image], NUM_CLASSES + 1)[:, :NUM_CLASSES].float()
        if kind == "focal_loss":
            total["loss_class"] += ops.sigmoid_focal_loss(logits, onehot, 0.25, 2.0, "sum")
        boxes, gt_boxes = output["pred_boxes"][image][query], wanted["boxes"][target]
        total["loss_bbox"] += F.l1_loss(boxes, gt_boxes, reduction="sum")
        corners = box_cxcywh_to_xyxy(boxes), box_cxcywh_to_xyxy(gt_boxes)
        if kind not in ("focal_loss", "ce_loss"):
            ious = torch.zeros(len(logits))
            ious[query] = ops.box_iou(*(c.detach() for c in corners)).diagonal()
            total["loss_class"] += plain_quality_loss(logits, classes[image], ious, kind)
        total["loss_giou"] += ops.generalized_box_iou_loss(*corners, reduction="sum")
    losses = {key: value / normaliser for key, value in total.items()}
    if kind == "ce_loss":
        weight = torch.tensor([1.0] * NUM_CLASSES + [0.1])
        losses["loss_class"] = F.cross_entropy(output["pred_logits"].transpose(1, 2), classes, weight)
    return losses


def plain_total(outputs, targets, dn_metas, matcher, binary=False, kind="focal_loss"):
    """All losses, layer by layer."""
    num_boxes = float(sum(COUNTS))
    losses = {}
    layers = {f"_{i}": layer for i, layer in enumerate(outputs["aux_outputs"])} | {"": outputs}
    for name, layer in layers.items():
        values = plain_losses(layer, targets, matcher(layer, targets), num_boxes, kind)
        losses |= {key + name: value for key, value in values.items()}
    proposals = outputs["enc_outputs"]
    objects = [{**t, "labels": torch.zeros_like(t["labels"])} for t in targets] if binary else targets
    values = plain_losses(proposals, objects, matcher(proposals, objects), num_boxes, kind)
    losses |= {f"{key}_enc": value for key, value in values.items()}
    pairs = []
    for n in COUNTS:
        slots = torch.arange(n)
        pairs.append((torch.cat([g * GROUP_SIZE + slots for g in range(GROUPS)]), slots.repeat(GROUPS)))
    denoised = dn_metas["output_known_lbs_bboxes"]
    for name, layer in ({f"_{i}": x for i, x in enumerate(denoised["aux_outputs"])} | {"": denoised}).items():
        values = plain_losses(layer, targets, pairs, num_boxes * GROUPS, kind)
        losses |= {f"{key}_dn{name}": value for key, value in values.items()}
    return losses


def assert_same(losses, wanted):
    assert set(losses) == set(wanted)
    for name, value in wanted.items():
        torch.testing.assert_close(losses[name], value, rtol=1e-4, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("binary", [False, True])
def test_all_losses_equal_a_plain_loop(binary):
    outputs, targets, dn_metas = random_case()
    matcher = HungarianMatcher(2, 5, 2)
    criterion = DINOCriterion(NUM_CLASSES, matcher, weight_dict(), two_stage_binary_cls=binary)
    losses = criterion(outputs, targets, dn_metas)
    assert len(losses) == 3 * (3 + 1 + 3)
    assert_same(losses, plain_total(outputs, targets, dn_metas, matcher, binary))


def test_cross_entropy_losses_equal_a_plain_loop():
    outputs, targets, dn_metas = random_case(width=NUM_CLASSES + 1)
    matcher = HungarianMatcher(2, 5, 2, cost_class_type="ce_cost")
    criterion = DINOCriterion(NUM_CLASSES, matcher, weight_dict(), loss_class_type="ce_loss")
    assert criterion.state_dict()["empty_weight"].tolist() == pytest.approx([1.0] * NUM_CLASSES + [0.1])
    losses = criterion(outputs, targets, dn_metas)
    assert_same(losses, plain_total(outputs, targets, dn_metas, matcher, kind="ce_loss"))


@pytest.mark.parametrize("kind", ["ia_bce_loss", "mal_loss", "varifocal_loss"])
def test_losses_whose_class_follows_the_box_equal_a_plain_loop(kind):
    outputs, targets, dn_metas = random_case()
    matcher = HungarianMatcher(2, 5, 2)
    criterion = DINOCriterion(NUM_CLASSES, matcher, weight_dict(), loss_class_type=kind)
    assert_same(criterion(outputs, targets, dn_metas), plain_total(outputs, targets, dn_metas, matcher, kind=kind))


@pytest.mark.parametrize("kind", ["ia_bce_loss", "mal_loss", "varifocal_loss"])
def test_a_class_target_that_follows_the_box_does_not_pull_at_the_box(kind):
    outputs, targets, _ = random_case()
    for key in ("pred_logits", "pred_boxes"):
        outputs[key].requires_grad_()
    criterion = DINOCriterion(NUM_CLASSES, HungarianMatcher(), weight_dict(), losses=["class"], loss_class_type=kind)
    criterion(outputs, targets)["loss_class"].backward()
    assert outputs["pred_logits"].grad.abs().max() > 0 and outputs["pred_boxes"].grad is None


def test_a_softmax_matcher_is_refused_where_the_class_follows_the_box():
    with pytest.raises(ValueError, match="mal_loss.*ce_cost"):
        DINOCriterion(2, HungarianMatcher(cost_class_type="ce_cost"), {}, loss_class_type="mal_loss")


def test_a_matcher_of_one_prediction_at_a_time_gives_the_same_losses():
    class OneByOne(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = HungarianMatcher(2, 5, 2)

        def forward(self, outputs, targets):
            return self.inner(outputs, targets)

    outputs, targets, dn_metas = random_case()
    together, apart = (
        DINOCriterion(NUM_CLASSES, matcher, weight_dict(), two_stage_binary_cls=True)(outputs, targets, dn_metas)
        for matcher in (HungarianMatcher(2, 5, 2), OneByOne())
    )
    assert_same(apart, together)


def test_padded_targets_are_detrexs_list_and_give_the_same_losses():
    outputs, targets, dn_metas = random_case()
    padded = pad_targets(targets)
    assert pad_targets(padded) is padded and padded.max_objects == 3
    for one, wanted in zip(padded, targets, strict=True):
        assert one.keys() == wanted.keys() and all(torch.equal(one[key], wanted[key]) for key in wanted)
    assert torch.equal(padded[1:][-1]["labels"], targets[2]["labels"])
    criterion = DINOCriterion(NUM_CLASSES, HungarianMatcher(2, 5, 2), weight_dict())
    of_list, of_padded = criterion(outputs, targets, dn_metas), criterion(outputs, padded, dn_metas)
    assert list(of_list) == list(of_padded) and all(torch.equal(of_list[key], of_padded[key]) for key in of_list)


def test_without_denoising_queries_their_losses_are_zeros():
    outputs, targets, _ = random_case()
    losses = DINOCriterion(NUM_CLASSES, HungarianMatcher(), weight_dict())(outputs, targets, None)
    zeros = [name for name in losses if "_dn" in name]
    assert len(zeros) == 9 and not any(float(losses[name]) for name in zeros)


def test_without_any_object_boxes_cost_nothing_but_keep_their_gradients():
    outputs, targets, _ = random_case()
    outputs["pred_boxes"].requires_grad_()
    empty = [{key: value[:0] for key, value in target.items()} for target in targets]
    losses = DINOCriterion(NUM_CLASSES, HungarianMatcher(), weight_dict())(outputs, empty)
    assert float(losses["loss_bbox"].detach()) == float(losses["loss_giou"].detach()) == 0.0
    assert float(losses["loss_class"]) == pytest.approx(
        float(ops.sigmoid_focal_loss(outputs["pred_logits"], torch.zeros_like(outputs["pred_logits"]), 0.25, 2, "sum")),
        rel=1e-5,
    )
    losses["loss_bbox"].backward()
    assert outputs["pred_boxes"].grad is not None and not outputs["pred_boxes"].grad.any()


@pytest.mark.parametrize(
    "chosen, keys", [(["class"], {"loss_class"}), (["boxes"], {"loss_bbox", "loss_giou"})], ids=["class", "boxes"]
)
def test_only_the_chosen_losses_are_computed(chosen, keys):
    outputs, targets, dn_metas = random_case()
    losses = DINOCriterion(NUM_CLASSES, HungarianMatcher(), weight_dict(), losses=chosen)(outputs, targets, dn_metas)
    assert {"_".join(name.split("_")[:2]) for name in losses} == keys


def test_losses_are_float32_whatever_the_predictions_are():
    outputs, targets, dn_metas = random_case()
    for layer in [outputs, *outputs["aux_outputs"], outputs["enc_outputs"]]:
        layer["pred_logits"] = layer["pred_logits"].bfloat16()
    losses = DINOCriterion(NUM_CLASSES, HungarianMatcher(), weight_dict())(outputs, targets, dn_metas)
    assert {loss.dtype for loss in losses.values()} == {torch.float32}


SPECIAL_WEIGHTS = {"loss_bbox_dn": 3.0, "loss_giou_1": 7.0}


@pytest.mark.parametrize(
    "weights", [BASE_WEIGHTS | SPECIAL_WEIGHTS, SPECIAL_WEIGHTS | BASE_WEIGHTS], ids=["special last", "special first"]
)
def test_a_loss_without_a_weight_takes_that_of_its_base(weights):
    weights = spelled_out(weights, num_layers=9)
    names = ["loss_class_7", "loss_class_dn_7", "loss_class_enc", "loss_bbox_dn_2", "loss_bbox_2", "loss_giou_1"]
    assert [weights[name] for name in names] == [1.0, 1.0, 1.0, 3.0, 5.0, 7.0]
    assert weights["loss_giou_dn_1"] == 2.0


def test_a_loss_without_any_weight_counts_once_and_warns_once():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(3):
            assert weighted({"loss_mask": torch.tensor(2.0)}, BASE_WEIGHTS)["loss_mask"] == 2.0
    assert [("loss_mask" in str(warning.message)) for warning in caught] == [True]


def test_unknown_losses_and_kinds_are_refused():
    with pytest.raises(AssertionError, match="masks"):
        DINOCriterion(2, HungarianMatcher(), {}, losses=["class", "masks"])
    with pytest.raises(AssertionError, match="hinge"):
        DINOCriterion(2, HungarianMatcher(), {}, loss_class_type="hinge")
